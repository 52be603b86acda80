"""Two hosts of a fleet: one signs while an HSM is killed, the other verifies all of it.

    demo_fleet.py MODULE LABEL PIN sign KEY COUNT OUT [PID]    kills PID in the middle
    demo_fleet.py MODULE LABEL PIN verify KEY IN"""

import os
import pathlib
import signal
import sys
import time

from cryptoki import Mechanism, Module, ck

_, path, label, pin, what, key, *rest = sys.argv
module = Module(path)
module.initialize()
session = module.session(module.slot_of(label))
session.login(pin.encode())


def find(kind):
    (handle,) = session.find({ck.CKA_CLASS: kind, ck.CKA_LABEL: key})
    return handle


def message(number):
    return f"payment {number}".encode()


if what == "sign":
    count, out, pid = int(rest[0]), pathlib.Path(rest[1]), int(rest[2]) if rest[2:] else None
    private, signatures, slowest = find(ck.CKO_PRIVATE_KEY), [], 0
    for number in range(count):
        if number == count // 2 and pid:
            os.kill(pid, signal.SIGKILL)
            print(f"   payment {number}: an HSM is killed")
        begun = time.monotonic()
        signatures.append(session.sign(Mechanism(ck.CKM_ECDSA_SHA256), private, message(number)))
        slowest = max(slowest, time.monotonic() - begun)
    out.write_bytes(b"".join(signatures))
    print(f"   {len(signatures)} payments are signed, none failed; the slowest took {slowest * 1000:.0f} ms")
else:
    data, public = pathlib.Path(rest[0]).read_bytes(), find(ck.CKO_PUBLIC_KEY)
    count = len(data) // 64
    for number in range(count):
        assert session.verify(Mechanism(ck.CKM_ECDSA_SHA256), public, message(number), data[64 * number:64 * number + 64])
    print(f"   {count} signatures verify at the other host")
session.close()
module.finalize()
