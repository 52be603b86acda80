"""An embedded token becomes a fleet's: its operators admit an HSM, its store is moved, the HSM expels the embedded
member. Its keys, PINs and serial number stay."""

import os
import subprocess
import sys

import cbor2
import pytest

from ceremony import Ceremony
from conftest import MODULE, PIN
from cryptoki import ck
from fleet import Fleet, Hsm, conclave
from peer.token import Token

pytestmark = pytest.mark.embedded("it begins with an embedded token")

HOST_PROGRAM = """
import sys
from cryptoki import Module, ck
module = Module(sys.argv[1])
module.initialize()
slot = 1 << 30
session = module.session(slot)
session.login(sys.argv[2].encode())
(key,) = session.find({ck.CKA_LABEL: "kept"})
print(module.token_info(slot).serialNumber.decode(), session.decrypt(ck.CKM_AES_ECB, key, bytes.fromhex(sys.argv[3])).hex())
"""


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:{tmp_path}/store"
    return request.getfixturevalue("postgres").make("moved")


def test_an_embedded_token_becomes_a_fleets(module, tmp_path, database):
    token = Ceremony(module, f"moves {database.partition(':')[0]}").found()
    token.session.logout()
    token.login(PIN, ck.CKU_USER)
    key = token.session.create({ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_AES, ck.CKA_TOKEN: True,
                                ck.CKA_VALUE: os.urandom(32), ck.CKA_LABEL: "kept", ck.CKA_ENCRYPT: True,
                                ck.CKA_DECRYPT: True})
    message = b"sixteen bytes, 2" * 3
    sealed = token.session.encrypt(ck.CKM_AES_ECB, key, message)
    serial, both = module.token_info(token.slot).serialNumber.decode(), [token.anna, token.ben]
    trust = Token(token.domain.export_token()).hash.hex()

    def history():
        origin, entries, newest = cbor2.loads(token.domain.history())
        return origin, newest, entries

    # An HSM is admitted, and a host.
    fleet = Fleet.of(tmp_path, token.people, trust, database)
    hsm = Hsm(tmp_path, "a", trust).start()
    fleet.hsms.append(hsm)
    fleet.bring(hsm, history())
    token.execute("admit HSM", hsm.claim(), by=both)
    token.execute("admit host", fleet.host_claim("host", token.state.domain, fleet.host_key), by=both)
    fleet.bring(hsm, history())
    assert hsm.status()["member"] and len(token.state.members) == 2
    # The embedded member still serves.
    assert token.session.decrypt(ck.CKM_AES_ECB, key, sealed) == message

    embedded = token.state.embedded
    token.session.close()
    conclave("store", "migrate", "--from", str(token.slot), "--to", fleet.database)
    fleet.execute("expel HSM", embedded, None, by=both)
    state = fleet.state()
    assert state.embedded is None and [member.id for member in state.members] == [hsm.id]

    conf = tmp_path / "conclave.toml"
    conf.write_text("embedded = false\n" + fleet.entry())
    done = subprocess.run([sys.executable, "-c", HOST_PROGRAM, str(MODULE), PIN, sealed.hex()], capture_output=True,
                          text=True, env={**os.environ, "CONCLAVE_CONF": str(conf)}, cwd=os.path.dirname(__file__),
                          check=False, timeout=60)
    assert done.stdout.split() == [serial, message.hex()], done.stderr
    hsm.kill()
