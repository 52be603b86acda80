"""A host process of a fleet that does what lines of JSON say, and answers each with a line.

    fleet_host.py MODULE SLOT PIN
"""

import ctypes
import json
import os
import random
import sys
import threading
import time
from ctypes import byref, c_ulong

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from cryptoki import Error, Module, ck, gcm

P256 = bytes.fromhex("06082a8648ce3d030107")


class Host:
    """The module in this process, its user logged in."""

    def __init__(self, module, slot, pin):
        self.module, self.slot = Module(module), int(slot)
        self.module.initialize()
        self.session = self.open()
        self.session.login(pin.encode())
        self.lock = threading.Lock()

    def open(self):
        return self.module.session(self.slot)

    def key(self, kind, label):
        found = self.session.find({ck.CKA_CLASS: kind, ck.CKA_LABEL: label})
        return found[0] if found else None

    def keys(self):
        """Makes or finds the keys that all share: an EC key pair and an AES key."""
        if self.key(ck.CKO_PRIVATE_KEY, b"ec") is None:
            token = {ck.CKA_TOKEN: True, ck.CKA_LABEL: b"ec"}
            self.session.generate_pair(ck.CKM_EC_KEY_PAIR_GEN, {**token, ck.CKA_EC_PARAMS: P256, ck.CKA_VERIFY: True},
                                       {**token, ck.CKA_SIGN: True})
            self.session.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_TOKEN: True, ck.CKA_LABEL: b"aes", ck.CKA_VALUE_LEN: 32,
                                                       ck.CKA_ENCRYPT: True, ck.CKA_DECRYPT: True})
        self.ec, self.aes = self.key(ck.CKO_PRIVATE_KEY, b"ec"), self.key(ck.CKO_SECRET_KEY, b"aes")
        point = self.session.get(self.key(ck.CKO_PUBLIC_KEY, b"ec"), ck.CKA_EC_POINT)
        self.public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point[2:])

    # Operations: each is true if its result is right.

    def signs(self, session):
        data = os.urandom(40)
        signature = session.sign(ck.CKM_ECDSA_SHA256, self.ec, data)
        r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
        try:
            self.public.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True

    def encrypts(self, session, length=100, parts=0):
        data, iv = os.urandom(length), os.urandom(12)
        sealed = session.encrypt(gcm(iv), self.aes, data, parts)
        return session.decrypt(gcm(iv), self.aes, sealed) == data

    def makes(self, session, label):
        session.generate(ck.CKM_AES_KEY_GEN, {ck.CKA_TOKEN: True, ck.CKA_LABEL: label.encode(), ck.CKA_VALUE_LEN: 32,
                                              ck.CKA_ENCRYPT: True})
        return True

    def load(self, seconds, threads, name):
        """Works for so long. {done: by tenth of a second, wrong, errors: [[time, function, code, sentence]],
        made: labels, lost: labels of keys that may be there or not}."""
        begun, counts = time.time(), {}
        report = {"done": counts, "wrong": 0, "errors": [], "made": [], "unsure": []}

        def work(thread):
            session, number = self.open(), 0
            while time.time() < begun + seconds:
                number += 1
                label = f"{name}-{thread}-{number}" if random.random() < 0.1 else None
                try:
                    if label:
                        right = self.makes(session, label)
                    else:
                        right = self.signs(session) if number % 3 else self.encrypts(session)
                    with self.lock:
                        slice_ = int((time.time() - begun) * 10)
                        counts[slice_] = counts.get(slice_, 0) + 1
                        report["wrong"] += not right
                        if label:
                            report["made"].append(label)
                except Error as error:
                    with self.lock:
                        failed = [round(time.time() - begun, 2), error.function, error.name, error.sentence]
                        report["errors"].append(failed)
                        if label:
                            report["unsure"].append(label)
                    time.sleep(0.05)

        workers = [threading.Thread(target=work, args=[number]) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return report

    def labels(self):
        """How often there is a key of each label."""
        counted = {}
        for handle in self.session.find({ck.CKA_CLASS: ck.CKO_SECRET_KEY}):
            label = self.session.get(handle, ck.CKA_LABEL).decode()
            counted[label] = counted.get(label, 0) + 1
        return counted

    def describe(self):
        room = c_ulong(4096)
        text = ctypes.create_string_buffer(room.value)
        self.session.call("KMS_DescribeSession", text, byref(room))
        return json.loads(text.raw[:room.value])

    def stream(self, length, parts):
        """An encryption in parts, and what was said if it fails."""
        return self.encrypts(self.session, length, parts)

    def take(self, name, *arguments):
        if name in ("signs", "encrypts"):
            return getattr(self, name)(self.session, *arguments)
        return getattr(self, name)(*arguments)


if __name__ == "__main__":
    host = Host(*sys.argv[1:4])
    print("{}", flush=True)
    for line in sys.stdin:
        try:
            answer = {"ok": host.take(*json.loads(line))}
        except Error as error:
            answer = {"error": error.name, "sentence": error.sentence}
        print(json.dumps(answer), flush=True)
