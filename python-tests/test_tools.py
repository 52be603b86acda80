"""Stock tools and libraries on the token, beyond the README's recipes."""

import os
import re
import subprocess
import sys

import pytest
from cryptography import x509

from conftest import MODULE, PIN, ROOT, SO_PIN, free_slot, need, run


@pytest.fixture(scope="module")
def keys(token):
    """An RSA pair 01, an EC pair 02, AES keys: 03 a cipher, 04 a wrapper, 05 one that may leave."""
    token.tool("--keypairgen", "--key-type", "rsa:2048", "--id", "01", "--label", "rsa")
    token.tool("--keypairgen", "--key-type", "EC:prime256v1", "--id", "02", "--label", "ec")
    token.tool("--keygen", "--key-type", "AES:32", "--id", "03", "--label", "aes", "--sensitive", "--private")
    token.tool("--keygen", "--key-type", "AES:32", "--id", "04", "--label", "wrapper", "--usage-wrap", "--sensitive")
    token.tool("--keygen", "--key-type", "AES:32", "--id", "05", "--label", "leaves", "--usage-decrypt", "--sensitive",
               "--extractable")
    return token


def read_public(keys, key, path):
    """Writes a public key as DER. OpenSC 0.23's --read-object reads freed memory if it is an EC one."""
    objects = keys.tool("--list-objects", "--type", "pubkey").split("Public Key Object")
    (listed,) = [each for each in objects if re.search(rf"ID: +{key}\n", each)]
    point = re.search(r"EC_POINT: +0441([0-9a-f]{130})\n", listed)
    if point:
        path.write_bytes(bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200" + point[1]))
    else:
        keys.tool("--read-object", "--type", "pubkey", "--id", key, "-o", path)


def test_pkcs11_tool_self_test(keys):
    """OpenSC's own test suite."""
    out = keys.tool("--test")
    assert "No errors" in out
    assert "RSA-PKCS-OAEP" in out


def test_pkcs11_tool_without_login(token):
    out = token.tool("--test", login=False)
    assert "No errors" in out


def test_pkcs11_tool_lists(keys):
    assert "token label        : tools" in keys.tool("--list-token-slots", login=False)
    mechanisms = keys.tool("--list-mechanisms", login=False)
    for name in ("AES-GCM", "ECDSA-SHA256", "SHA256-RSA-PKCS-PSS", "EDDSA", "AES-KEY-WRAP"):
        assert name in mechanisms
    objects = keys.tool("--list-objects")
    for label in ("rsa", "ec", "aes", "wrapper", "leaves"):
        assert f"label:      {label}" in objects
    assert "label:      aes" not in keys.tool("--list-objects", login=False)


@pytest.mark.parametrize("mechanism, key, options", [
    ("SHA256-RSA-PKCS", "01", ["-sha256"]),
    ("SHA512-RSA-PKCS", "01", ["-sha512"]),
    ("SHA384-RSA-PKCS-PSS", "01", ["-sha384", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:48"]),
    ("ECDSA-SHA384", "02", ["-sha384"]),
])
def test_pkcs11_tool_signs_for_openssl(keys, tmp_path, mechanism, key, options):
    message, signature, public = tmp_path / "m", tmp_path / "s", tmp_path / "p.der"
    message.write_bytes(os.urandom(5000))
    style = ["--signature-format", "openssl"] if mechanism.startswith("EC") else []
    keys.tool("--sign", "--mechanism", mechanism, "--id", key, "-i", message, "-o", signature, *style)
    read_public(keys, key, public)
    assert "Verified OK" in run("openssl", "dgst", "-keyform", "DER", "-verify", public, "-signature", signature,
                                *options, message)
    message.write_bytes(b"another")
    assert "Verified OK" not in run("openssl", "dgst", "-keyform", "DER", "-verify", public, "-signature", signature,
                                    *options, message, check=False)


def test_pkcs11_tool_verifies_openssl(keys, tmp_path):
    message, signature = tmp_path / "m", tmp_path / "s"
    message.write_bytes(b"signed elsewhere")
    run("openssl", "genrsa", "-out", tmp_path / "k.pem", "2048")
    run("openssl", "rsa", "-in", tmp_path / "k.pem", "-outform", "DER", "-out", tmp_path / "k.der")
    run("openssl", "rsa", "-in", tmp_path / "k.pem", "-pubout", "-outform", "DER", "-out", tmp_path / "p.der")
    run("openssl", "dgst", "-sha256", "-sign", tmp_path / "k.pem", "-out", signature, message)
    keys.tool("--write-object", tmp_path / "p.der", "--type", "pubkey", "--id", "0a", "--label", "imported")
    assert "Signature is valid" in keys.tool("--verify", "--mechanism", "SHA256-RSA-PKCS", "--id", "0a", "-i", message,
                                             "--signature-file", signature)
    keys.tool("--write-object", tmp_path / "k.der", "--type", "privkey", "--id", "0a", "--label", "imported")
    keys.tool("--sign", "--mechanism", "SHA256-RSA-PKCS", "--id", "0a", "-i", message, "-o", tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == signature.read_bytes()
    for kind in ("privkey", "pubkey"):
        keys.tool("--delete-object", "--type", kind, "--id", "0a")
    assert "imported" not in keys.tool("--list-objects")


def test_pkcs11_tool_wraps_and_unwraps(keys, tmp_path):
    plain, sealed, opened, wrapped = (tmp_path / name for name in ("plain", "sealed", "opened", "wrapped"))
    plain.write_bytes(os.urandom(1000))
    cbc = ["--mechanism", "AES-CBC-PAD", "--iv", "00" * 16]
    keys.tool("--encrypt", *cbc, "--id", "05", "-i", plain, "-o", sealed)
    keys.tool("--wrap", "--mechanism", "AES-KEY-WRAP", "--id", "04", "--application-id", "05", "-o", wrapped)
    assert wrapped.stat().st_size == 40
    keys.tool("--unwrap", "--mechanism", "AES-KEY-WRAP", "--id", "04", "--application-id", "06", "-i", wrapped,
              "--key-type", "AES:", "--application-label", "back", "--sensitive")
    keys.tool("--decrypt", *cbc, "--id", "06", "-i", sealed, "-o", opened)
    assert opened.read_bytes() == plain.read_bytes()
    # The cipher key does not wrap, and the wrapper does not unwrap what can be read.
    assert "CKR_KEY" in run_failing(keys, "--wrap", "--mechanism", "AES-KEY-WRAP", "--id", "03", "--application-id", "05",
                                    "-o", wrapped)


def run_failing(token, *args):
    done = subprocess.run(["pkcs11-tool", "--module", str(MODULE), "--token-label", token.label, "--login", "--pin",
                           token.pin, *map(str, args)], capture_output=True, timeout=60)
    assert done.returncode
    return done.stderr.decode()


def test_pkcs11_tool_certificates_and_data(keys, tmp_path):
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
        tmp_path / "k", "-subj", "/CN=a test", "-outform", "DER", "-out", tmp_path / "c.der")
    keys.tool("--write-object", tmp_path / "c.der", "--type", "cert", "--id", "07", "--label", "certificate")
    keys.tool("--read-object", "--type", "cert", "--id", "07", "-o", tmp_path / "again.der")
    assert (tmp_path / "again.der").read_bytes() == (tmp_path / "c.der").read_bytes()
    assert "CN=a test" in keys.tool("--list-objects", "--type", "cert")
    (tmp_path / "d").write_bytes(b"some data")
    keys.tool("--write-object", tmp_path / "d", "--type", "data", "--label", "data", "--private")
    keys.tool("--read-object", "--type", "data", "--label", "data", "-o", tmp_path / "d2")
    assert (tmp_path / "d2").read_bytes() == b"some data"
    keys.tool("--delete-object", "--type", "cert", "--id", "07")
    keys.tool("--delete-object", "--type", "data", "--label", "data")


def test_pkcs11_tool_derives(keys, tmp_path):
    keys.tool("--keypairgen", "--key-type", "EC:prime256v1", "--id", "08", "--label", "agree", "--usage-derive")
    run("openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", tmp_path / "k.pem")
    run("openssl", "pkey", "-in", tmp_path / "k.pem", "-pubout", "-outform", "DER", "-out", tmp_path / "p.der")
    keys.tool("--derive", "--mechanism", "ECDH1-DERIVE", "--id", "08", "-i", tmp_path / "p.der", "-o", tmp_path / "ours")
    read_public(keys, "08", tmp_path / "q.der")
    run("openssl", "pkey", "-pubin", "-inform", "DER", "-in", tmp_path / "q.der", "-out", tmp_path / "q.pem")
    run("openssl", "pkeyutl", "-derive", "-inkey", tmp_path / "k.pem", "-peerkey", tmp_path / "q.pem", "-out",
        tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_pkcs11_tool_changes_the_pin(home):
    need("pkcs11-tool")
    base = ["pkcs11-tool", "--module", MODULE]
    run(*base, "--init-token", "--label", "changing", "--so-pin", SO_PIN, *free_slot())
    token = [*base, "--token-label", "changing"]
    run(*token, "--login", "--login-type", "so", "--so-pin", SO_PIN, "--init-pin", "--new-pin", PIN)
    run(*token, "--login", "--pin", PIN, "--change-pin", "--new-pin", "the-new-one")
    run(*token, "--login", "--pin", "the-new-one", "--list-objects")
    failed = subprocess.run([*map(str, token), "--login", "--pin", PIN, "--list-objects"], capture_output=True)
    assert failed.returncode and b"CKR_PIN_INCORRECT" in failed.stderr


def test_openssl_engine_serves_tls(home, tmp_path):
    """A TLS server whose key is in the token, in a token without Ed25519 keys (see the README)."""
    need("openssl")
    base = ["pkcs11-tool", "--module", MODULE]
    run(*base, "--init-token", "--label", "tls", "--so-pin", SO_PIN, *free_slot())
    token = [*base, "--token-label", "tls"]
    run(*token, "--login", "--login-type", "so", "--so-pin", SO_PIN, "--init-pin", "--new-pin", PIN)
    run(*token, "--login", "--pin", PIN, "--keypairgen", "--key-type", "EC:prime256v1", "--id", "01", "--label", "server")
    config = tmp_path / "openssl.cnf"
    config.write_text("openssl_conf = init\n[init]\nengines = engines\n[engines]\npkcs11 = pkcs11\n[pkcs11]\n"
                      f"engine_id = pkcs11\nMODULE_PATH = {MODULE}\nPIN = {PIN}\ninit = 0\n[req]\ndistinguished_name = dn\n[dn]\n")
    env = {"OPENSSL_CONF": str(config)}
    key = ["-engine", "pkcs11", "-keyform", "engine", "-key", "pkcs11:token=tls;object=server;type=private"]
    run("openssl", "req", "-new", "-x509", *key, "-subj", "/CN=localhost", "-days", "2", "-out", tmp_path / "c.pem", env=env)
    server = subprocess.Popen(
        ["openssl", "s_server", *key, "-cert", str(tmp_path / "c.pem"), "-accept", "127.0.0.1:0", "-naccept", "2", "-www"],
        env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        line = b""
        while not line.startswith(b"ACCEPT"):
            line = server.stdout.readline()
            assert line, "the server ended"
        address = line.decode().split()[1]
        for version in ("-tls1_2", "-tls1_3"):
            said = run("openssl", "s_client", "-connect", address, "-CAfile", tmp_path / "c.pem", version,
                       "-verify_return_error", input=b"GET / HTTP/1.0\r\n\r\n")
            assert "Verify return code: 0 (ok)" in said
        server.wait(timeout=20)
    finally:
        server.kill()


def test_ssh_logs_in(keys, tmp_path):
    """A login at a real sshd, spoken to through a pipe, with the key in the token."""
    need("ssh", "ssh-keygen")
    sshd = "/usr/sbin/sshd"
    if not os.path.exists(sshd) or os.getuid() != 0:
        pytest.skip("no sshd, or not root")
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    keys_of = run("ssh-keygen", "-D", MODULE)
    rsa = next(line for line in keys_of.splitlines() if line.startswith("ssh-rsa"))
    (tmp_path / "authorized").write_text(rsa + "\n")
    os.chmod(tmp_path / "authorized", 0o600)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "host")
    (tmp_path / "sshd").write_text(
        f"HostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/authorized\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin yes\nLogLevel ERROR\n")
    askpass = tmp_path / "askpass"
    askpass.write_text(f"#!/bin/sh\necho {PIN}\n")
    askpass.chmod(0o700)
    said = run("ssh", "-F", "none", "-o", f"PKCS11Provider={MODULE}", "-o", "IdentitiesOnly=no", "-o",
               f"ProxyCommand={sshd} -i -e -f {tmp_path}/sshd", "-o", "StrictHostKeyChecking=no", "-o",
               f"UserKnownHostsFile={tmp_path}/known", "-o", "IdentityFile=none", "-o",
               "PreferredAuthentications=publickey", "root@token", "echo logged in",
               env={"SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force", "SSH_AUTH_SOCK": ""})
    assert said.strip() == "logged in"


def test_gnutls(keys):
    need("p11tool")
    listing = run("p11tool", "--provider", MODULE, "--login", "--list-all", keys.uri(), env={"GNUTLS_PIN": PIN})
    assert "object=rsa;type=private" in listing and "Private key (RSA-2048)" in listing
    assert "Private key (EC/ECDSA-SECP256R1)" in listing
    for name in ("rsa", "ec"):
        said = run("sh", "-c", "p11tool --provider $0 --login --test-sign $1 2>&1", MODULE,
                   keys.uri(f";object={name};type=private"), env={"GNUTLS_PIN": PIN})
        assert said.count("... ok") == 3


def test_java(keys, tmp_path):
    """A program over SunPKCS11: signatures, AES in two modes, HMAC, digests, agreement, a key store."""
    need("java")
    slot = slot_of("tools")
    config = tmp_path / "java.cfg"
    config.write_text(f"name = Conclave\nlibrary = {MODULE}\nslot = {slot}\n"
                      "attributes(generate, CKO_SECRET_KEY, CKK_GENERIC_SECRET) = {\n"
                      "  CKA_SENSITIVE = false\n  CKA_EXTRACTABLE = true\n}\n")
    said = run("java", ROOT / "python-tests" / "TokenTest.java", config, PIN)
    assert said.split() == ["RSA", "RSASSA-PSS", "EC", "GCM", "CBC", "HMAC", "SHA-256", "ECDH", "KeyStore", "RSA-decrypt"]


def slot_of(label):
    """The slot id, in decimal."""
    listing = run("pkcs11-tool", "--module", MODULE, "--list-token-slots")
    for part in listing.split("Slot ")[1:]:
        if f"token label        : {label}\n" in part:
            return int(part.split("(0x")[1].split(")")[0], 16)
    raise AssertionError(listing)


def test_nss(keys, tmp_path):
    need("certutil", "modutil")
    database = f"sql:{tmp_path}"
    run("certutil", "-N", "-d", database, "--empty-password")
    run("modutil", "-dbdir", database, "-add", "conclave", "-libfile", MODULE, "-force")
    assert "Token Name: tools" in run("modutil", "-dbdir", database, "-list", "conclave")
    (tmp_path / "pin").write_text(PIN)
    (tmp_path / "noise").write_bytes(os.urandom(200))
    where = ["-d", database, "-h", "tools", "-f", str(tmp_path / "pin")]
    for kind, options in [("rsa", ["-g", "2048"]), ("ec", ["-q", "nistp384"])]:
        run("certutil", "-S", *where, "-n", f"nss-{kind}", "-s", f"CN=nss {kind}", "-x", "-t", ",,", "-k", kind, *options,
            "-z", tmp_path / "noise", "-v", "1", "-m", str(len(kind)))
        listing = run("certutil", "-L", *where)
        assert f"tools:nss-{kind}" in listing
        text = run("certutil", "-L", *where, "-n", f"tools:nss-{kind}", "-a")
        certificate = x509.load_pem_x509_certificate(text.encode())
        certificate.verify_directly_issued_by(certificate)
        run("certutil", "-F", *where, "-n", f"tools:nss-{kind}")


def test_pykcs11(keys):
    """Object search, templates, generation and GCM through PyKCS11."""
    script = r"""
import os, sys, PyKCS11 as P
library = P.PyKCS11Lib()
library.load(sys.argv[1])
slot = next(s for s in library.getSlotList(tokenPresent=True) if library.getTokenInfo(s).label.strip() == "tools")
session = library.openSession(slot, P.CKF_SERIAL_SESSION | P.CKF_RW_SESSION)
session.login(sys.argv[2])
public, = session.findObjects([(P.CKA_CLASS, P.CKO_PUBLIC_KEY), (P.CKA_LABEL, "rsa")])
private, = session.findObjects([(P.CKA_CLASS, P.CKO_PRIVATE_KEY), (P.CKA_LABEL, "rsa")])
signature = session.sign(private, b"x", P.Mechanism(P.CKM_SHA256_RSA_PKCS))
assert session.verify(public, b"x", signature, P.Mechanism(P.CKM_SHA256_RSA_PKCS))
pss = P.RSA_PSS_Mechanism(P.CKM_SHA256_RSA_PKCS_PSS, P.CKM_SHA256, P.CKG_MGF1_SHA256, 32)
assert session.verify(public, b"x", session.sign(private, b"x", pss), pss)
oaep = P.RSAOAEPMechanism(P.CKM_SHA256, P.CKG_MGF1_SHA256)
assert bytes(session.decrypt(private, session.encrypt(public, b"x", oaep), oaep)) == b"x"
key = session.generateKey([(P.CKA_CLASS, P.CKO_SECRET_KEY), (P.CKA_KEY_TYPE, P.CKK_AES), (P.CKA_VALUE_LEN, 32),
                           (P.CKA_ENCRYPT, True), (P.CKA_DECRYPT, True)])
gcm = P.AES_GCM_Mechanism(os.urandom(12), b"aad", 128)
assert bytes(session.decrypt(key, session.encrypt(key, b"data", gcm), gcm)) == b"data"
assert session.getAttributeValue(private, [P.CKA_SENSITIVE, P.CKA_PRIVATE_EXPONENT]) == [True, None]
assert len(session.digest(b"abc", P.Mechanism(P.CKM_SHA256))) == 32
session.logout()
session.closeSession()
"""
    run(sys.executable, "-c", script, MODULE, PIN)


def test_python_pkcs11(keys):
    """Key generation of each kind, agreement, wrapping through python-pkcs11."""
    script = r"""
import sys, pkcs11
from pkcs11 import Attribute, KDF, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.util.ec import encode_named_curve_parameters
token = pkcs11.lib(sys.argv[1]).get_token(token_label="tools")
with token.open(user_pin=sys.argv[2], rw=True) as session:
    key = session.generate_key(KeyType.AES, 256)
    iv = session.generate_random(128)
    assert key.decrypt(key.encrypt(b"x" * 40, mechanism_param=iv), mechanism_param=iv) == b"x" * 40
    public, private = session.generate_keypair(KeyType.RSA, 2048)
    assert public.verify(b"data", private.sign(b"data"))
    assert private.decrypt(public.encrypt(b"data")) == b"data"
    curve = session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")},
                                             local=True)
    (p1, k1), (p2, k2) = curve.generate_keypair(), curve.generate_keypair()
    assert p1.verify(b"data", k1.sign(b"data", mechanism=Mechanism.ECDSA_SHA256), mechanism=Mechanism.ECDSA_SHA256)
    agreed = [k.derive_key(KeyType.AES, 256, mechanism_param=(KDF.NULL, None, p[Attribute.EC_POINT]),
                           template={Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True})
              for k, p in ((k1, p2), (k2, p1))]
    assert agreed[0][Attribute.VALUE] == agreed[1][Attribute.VALUE]
    wrapper = session.generate_key(KeyType.AES, 256, capabilities=MechanismFlag.WRAP | MechanismFlag.UNWRAP)
    leaves = session.generate_key(KeyType.AES, 256, template={Attribute.EXTRACTABLE: True})
    blob = wrapper.wrap_key(leaves, mechanism=Mechanism.AES_KEY_WRAP)
    back = wrapper.unwrap_key(ObjectClass.SECRET_KEY, KeyType.AES, blob, mechanism=Mechanism.AES_KEY_WRAP)
    assert leaves.decrypt(back.encrypt(b"x" * 16, mechanism_param=iv), mechanism_param=iv) == b"x" * 16
    assert len(list(session.get_objects({Attribute.LABEL: "rsa"}))) == 2
"""
    run(sys.executable, "-c", script, MODULE, PIN)


def test_conclave_agrees_with_pkcs11_tool(keys):
    conclave = ROOT / "target/release/conclave"
    if not conclave.exists():
        pytest.skip("the command-line tool is not built")
    assert "tools" in run(conclave, "token", "list")
    listing = run(conclave, "key", "list", "--token", "tools", "--pin", "env:TOOLS_PIN", env={"TOOLS_PIN": PIN})
    for label in ("rsa", "ec", "aes", "wrapper", "leaves"):
        assert label in listing
    run(conclave, "doctor")
