"""Key material that is made outside of the HSM, and wrapped for its import."""

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def pkcs8(private):
    return private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


MATERIAL = {
    "AES_256": lambda: bytes(range(32)),
    "HMAC_256": lambda: bytes(range(32, 64)),
    "HMAC_512": lambda: bytes(range(64)),
    "ECC_NIST_P256": lambda: pkcs8(ec.generate_private_key(ec.SECP256R1())),
    "ECC_NIST_P384": lambda: pkcs8(ec.generate_private_key(ec.SECP384R1())),
    "ECC_ED25519": lambda: pkcs8(Ed25519PrivateKey.generate()),
    "RSA_2048": lambda: pkcs8(rsa.generate_private_key(65537, 2048)),
}


def wrap(public_key, material):
    """RSAES_OAEP_SHA_256."""
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    return serialization.load_der_public_key(public_key).encrypt(material, oaep)


def bring(kms, key, material, **more):
    """Imports material; the token and the wrapped bytes, to be used again."""
    public, token, _ = kms.import_parameters(key)
    wrapped = wrap(public, material)
    kms.import_material(key, token, wrapped, **more)
    return token, wrapped
