"""Part of `make demo`: encrypts and decrypts a real file with the token's AES key, through ctypes.

usage: demo_file.py MODULE TOKEN PIN KEY-LABEL FILE
"""

import hashlib
import pathlib
import sys
import time

from cryptoki import Mechanism, Module, ck

PART = 1 << 20


def main():
    path, token, pin, label, name = sys.argv[1:]
    module = Module(path)
    module.initialize()
    session = module.session(module.slot_of(token))
    session.login(pin.encode())
    key, = session.find({ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_LABEL: label})
    data = pathlib.Path(name).read_bytes()
    iv = session.random(16)

    begin = time.monotonic()
    sealed = session.encrypt(Mechanism(ck.CKM_AES_CBC_PAD, iv), key, data, parts=PART)
    pathlib.Path(f"{name}.sealed").write_bytes(iv + sealed)
    print(f"   encrypted {len(data):,} bytes to {len(sealed):,} in {time.monotonic() - begin:.2f} s")

    stored = pathlib.Path(f"{name}.sealed").read_bytes()
    begin = time.monotonic()
    opened = session.decrypt(Mechanism(ck.CKM_AES_CBC_PAD, stored[:16]), key, stored[16:], parts=PART)
    print(f"   decrypted them in {time.monotonic() - begin:.2f} s")
    print(f"   SHA-256 before {hashlib.sha256(data).hexdigest()}")
    print(f"   SHA-256 after  {hashlib.sha256(opened).hexdigest()}")
    module.finalize()
    return opened != data


if __name__ == "__main__":
    sys.exit(main())
