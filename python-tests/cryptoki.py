"""PKCS#11 through ctypes: the module's C ABI as Python sees it, with nothing in between.

Constants (CKM_*, CKA_*, KMS_R_*, ...) come from the headers in include/ and are attributes of `ck`.
A template is a dict from attribute type to bool, int, bytes, str, a list of ints, or a dict.
"""

import ctypes
import json
import pathlib
import re
from ctypes import Structure, byref, c_char, c_ubyte, c_ulong, c_void_p

INCLUDE = pathlib.Path(__file__).parent.parent / "include"
UNAVAILABLE = c_ulong(-1).value


class Constants:
    """The numeric macros of the headers: NUMBER, or (NAME | NUMBER)."""

    def __init__(self, *paths):
        number = r"(0x[0-9a-fA-F]+|\d+)[uUlL]*"
        for path in paths:
            for name, base, value in re.findall(rf"^#define ((?:CK|KMS)\w+)\s+\(?(?:(\w+) \| )?{number}\)?\s*$",
                                                path.read_text(), re.M):
                setattr(self, name, int(value, 0) | (getattr(self, base) if base else 0))

    def name(self, prefix, value):
        """The first macro of that prefix with that value, e.g. name("CKR_", 0xa0)."""
        for name, known in vars(self).items():
            if known == value and name.startswith(prefix):
                return name
        return f"{prefix}{value:#x}"


ck = Constants(INCLUDE / "conclave_pkcs11.h", INCLUDE / "conclave.h")


class Error(Exception):
    """A call that did not answer CKR_OK."""

    def __init__(self, function, rv, sentence=""):
        self.function, self.rv, self.sentence = function, rv, sentence
        self.name = ck.name("KMS_R_", rv) if rv & ck.CKR_VENDOR_DEFINED else ck.name("CKR_", rv)
        super().__init__(f"{function}: {self.name} {sentence}".strip())


class CK_VERSION(Structure):
    _fields_ = [("major", c_ubyte), ("minor", c_ubyte)]


class CK_INFO(Structure):
    _fields_ = [("cryptokiVersion", CK_VERSION), ("manufacturerID", c_char * 32), ("flags", c_ulong),
                ("libraryDescription", c_char * 32), ("libraryVersion", CK_VERSION)]


class CK_TOKEN_INFO(Structure):
    _fields_ = [("label", c_char * 32), ("manufacturerID", c_char * 32), ("model", c_char * 16),
                ("serialNumber", c_char * 16), ("flags", c_ulong)] + [
                    (name, c_ulong) for name in (
                        "ulMaxSessionCount", "ulSessionCount", "ulMaxRwSessionCount", "ulRwSessionCount",
                        "ulMaxPinLen", "ulMinPinLen", "ulTotalPublicMemory", "ulFreePublicMemory",
                        "ulTotalPrivateMemory", "ulFreePrivateMemory")
                ] + [("hardwareVersion", CK_VERSION), ("firmwareVersion", CK_VERSION), ("utcTime", c_char * 16)]


class CK_MECHANISM_INFO(Structure):
    _fields_ = [("ulMinKeySize", c_ulong), ("ulMaxKeySize", c_ulong), ("flags", c_ulong)]


class CK_ATTRIBUTE(Structure):
    _fields_ = [("type", c_ulong), ("pValue", c_void_p), ("ulValueLen", c_ulong)]


class CK_MECHANISM(Structure):
    _fields_ = [("mechanism", c_ulong), ("pParameter", c_void_p), ("ulParameterLen", c_ulong)]


class KMS_BYTES(Structure):
    _fields_ = [("pBytes", c_void_p), ("ulLen", c_ulong)]


class CK_C_INITIALIZE_ARGS(Structure):
    _fields_ = [(name, c_void_p) for name in ("CreateMutex", "DestroyMutex", "LockMutex", "UnlockMutex")] + [
        ("flags", c_ulong), ("pReserved", c_void_p)]


def _encode(value):
    """The bytes of an attribute value, and what must stay alive with them."""
    if isinstance(value, bool):
        return bytes([value]), None
    if isinstance(value, int):
        return bytes(c_ulong(value)), None
    if isinstance(value, str):
        return value.encode(), None
    if isinstance(value, dict):
        array, alive = template(value)
        return bytes(array), (array, alive)
    if isinstance(value, (list, tuple)):
        return b"".join(bytes(c_ulong(item)) for item in value), None
    return bytes(value), None


def template(attributes):
    """(CK_ATTRIBUTE array, buffers to keep alive)."""
    array = (CK_ATTRIBUTE * len(attributes))()
    alive = []
    for slot, (kind, value) in zip(array, attributes.items()):
        data, more = _encode(value)
        buffer = ctypes.create_string_buffer(data, len(data)) if data else None
        alive += [buffer, more]
        slot.type = kind
        slot.pValue = ctypes.cast(buffer, c_void_p) if buffer else None
        slot.ulValueLen = len(data)
    return array, alive


class Mechanism:
    """A CK_MECHANISM that owns its parameter. `parameter` is None, bytes, or a list of C fields:
    ints (CK_ULONG), bools (CK_BBOOL, padded), ("pointer", bytes) or ("array", bytes)."""

    def __init__(self, kind, parameter=None):
        self.alive = []
        if isinstance(parameter, list):
            parameter = self._struct(parameter)
        self.c = CK_MECHANISM(kind, None, 0)
        if parameter is not None:
            self.buffer = ctypes.create_string_buffer(parameter, max(len(parameter), 1))
            self.c.pParameter = ctypes.cast(self.buffer, c_void_p)
            self.c.ulParameterLen = len(parameter)

    def _struct(self, fields):
        out = b""
        for field in fields:
            if isinstance(field, bool):
                out += bytes([field])
                continue
            if isinstance(field, tuple) and field[0] == "array":
                out += field[1]
                continue
            out += b"\0" * (-len(out) % 8)
            if isinstance(field, tuple):
                data = field[1]
                if data is None:
                    out += bytes(8)
                    continue
                buffer = ctypes.create_string_buffer(data, max(len(data), 1))
                self.alive.append(buffer)
                out += bytes(c_ulong(ctypes.addressof(buffer)))
            else:
                out += bytes(c_ulong(field))
        return out + b"\0" * (-len(out) % 8)


def gcm(iv, aad=b"", tag_bits=128):
    """CK_GCM_PARAMS."""
    return Mechanism(ck.CKM_AES_GCM,
                     [("pointer", iv), len(iv), len(iv) * 8, ("pointer", aad or None), len(aad), tag_bits])


def gcm_message(iv, tag=bytes(16), generator=None, fixed_bits=0):
    """CK_GCM_MESSAGE_PARAMS; `alive` are the buffers of the IV and of the tag."""
    generator = ck.CKG_NO_GENERATE if generator is None else generator
    return Mechanism(ck.CKM_AES_GCM,
                     [("pointer", iv), len(iv), fixed_bits, generator, ("pointer", tag), 8 * len(tag)])


def gcm_wrap(iv, aad, generator, fixed_bits=0, tag_bits=128):
    """CK_GCM_WRAP_PARAMS; the first of `alive` is the buffer of the IV."""
    return Mechanism(ck.CKM_AES_GCM, [("pointer", iv), len(iv), fixed_bits, generator, ("pointer", aad or None),
                                      len(aad), tag_bits])


def ctr(counter_block, bits=128):
    """CK_AES_CTR_PARAMS."""
    return Mechanism(ck.CKM_AES_CTR, [bits, ("array", counter_block)])


def pss(kind, hash_, mgf, salt_len):
    """CK_RSA_PKCS_PSS_PARAMS."""
    return Mechanism(kind, [hash_, mgf, salt_len])


def oaep(hash_, mgf, label=b""):
    """CK_RSA_PKCS_OAEP_PARAMS."""
    return Mechanism(ck.CKM_RSA_PKCS_OAEP,
                     [hash_, mgf, ck.CKZ_DATA_SPECIFIED, ("pointer", label or None), len(label)])


def ecdh(point, kdf=None, shared=b"", kind=None):
    """CK_ECDH1_DERIVE_PARAMS."""
    return Mechanism(kind or ck.CKM_ECDH1_DERIVE,
                     [kdf or ck.CKD_NULL, len(shared), ("pointer", shared or None), len(point), ("pointer", point)])


def hkdf(hash_, salt, info, extract=True, expand=True, kind=None):
    """CK_HKDF_PARAMS; `salt` None for no salt."""
    salt_type = ck.CKF_HKDF_SALT_DATA if salt else ck.CKF_HKDF_SALT_NULL
    return Mechanism(kind or ck.CKM_HKDF_DERIVE,
                     [extract, expand, hash_, salt_type, ("pointer", salt or None), len(salt or b""), 0,
                      ("pointer", info or None), len(info)])


class Module:
    """The module at `path`."""

    def __init__(self, path):
        self.lib = ctypes.CDLL(str(path))

    def call(self, function, *args):
        """Each argument is of its C type already."""
        entry = getattr(self.lib, function)
        entry.restype = c_ulong
        rv = entry(*args)
        if rv:
            raise Error(function, rv, self.last_error())

    def last_error(self):
        """The module's own sentence about the last failed call."""
        ask = getattr(self.lib, "KMS_LastError", None)
        if not ask:
            return ""
        text, length = ctypes.create_string_buffer(1000), c_ulong(1000)
        ask(text, byref(length))
        return text.raw[:length.value].decode(errors="replace")

    def initialize(self):
        args = CK_C_INITIALIZE_ARGS(flags=ck.CKF_OS_LOCKING_OK)
        self.call("C_Initialize", byref(args))

    def finalize(self):
        self.call("C_Finalize", None)

    def info(self):
        info = CK_INFO()
        self.call("C_GetInfo", byref(info))
        return info

    def slots(self, with_token=True):
        count = c_ulong()
        self.call("C_GetSlotList", c_ubyte(with_token), None, byref(count))
        array = (c_ulong * count.value)()
        self.call("C_GetSlotList", c_ubyte(with_token), array, byref(count))
        return list(array[:count.value])

    def token_info(self, slot):
        info = CK_TOKEN_INFO()
        self.call("C_GetTokenInfo", c_ulong(slot), byref(info))
        return info

    def slot_of(self, label):
        """The slot of the initialised token of that label, or None."""
        for slot in self.slots():
            info = self.token_info(slot)
            if info.flags & ck.CKF_TOKEN_INITIALIZED and info.label.decode().rstrip() == label:
                return slot
        return None

    def init_token(self, slot, so_pin, label):
        self.call("C_InitToken", c_ulong(slot), so_pin, c_ulong(len(so_pin)), label.encode().ljust(32))

    def make_token(self, label, so_pin, user_pin):
        """Initialises the free slot; the new token's slot."""
        free = next(slot for slot in self.slots() if not self.token_info(slot).flags & ck.CKF_TOKEN_INITIALIZED)
        self.init_token(free, so_pin, label)
        slot = self.slot_of(label)
        with self.session(slot) as session:
            session.login(so_pin, ck.CKU_SO)
            session.call("C_InitPIN", user_pin, c_ulong(len(user_pin)))
            session.logout()
        return slot

    def session(self, slot, writable=True):
        handle = c_ulong()
        flags = ck.CKF_SERIAL_SESSION | (ck.CKF_RW_SESSION if writable else 0)
        self.call("C_OpenSession", c_ulong(slot), c_ulong(flags), None, None, byref(handle))
        return Session(self, handle.value)

    def mechanisms(self, slot):
        count = c_ulong()
        self.call("C_GetMechanismList", c_ulong(slot), None, byref(count))
        array = (c_ulong * count.value)()
        self.call("C_GetMechanismList", c_ulong(slot), array, byref(count))
        return list(array[:count.value])

    def mechanism_info(self, slot, kind):
        info = CK_MECHANISM_INFO()
        self.call("C_GetMechanismInfo", c_ulong(slot), c_ulong(kind), byref(info))
        return info


    # Recovery of a domain whose PINs are lost; no session is needed.

    def begin_recovery(self, slot, so_pin):
        """Makes the fresh HSM; the claim by which "recover domain" names it."""
        buffer, length = ctypes.create_string_buffer(ck.KMS_MAX_CLAIM_LEN), c_ulong(ck.KMS_MAX_CLAIM_LEN)
        self.call("KMS_BeginRecovery", c_ulong(slot), so_pin, c_ulong(len(so_pin)), buffer, byref(length))
        return buffer.raw[:length.value]

    def recover(self, slot, so_pin, command, contributions):
        array = (KMS_BYTES * max(len(contributions), 1))()
        buffers = [ctypes.create_string_buffer(one, max(len(one), 1)) for one in contributions]
        for place, buffer, one in zip(array, buffers, contributions):
            place.pBytes, place.ulLen = ctypes.cast(buffer, c_void_p), len(one)
        self.call("KMS_Recover", c_ulong(slot), so_pin, c_ulong(len(so_pin)), command, c_ulong(len(command)), array,
                  c_ulong(len(contributions)))


class Session:
    """An open session. Methods take a mechanism as a `Mechanism` or, without parameter, its number."""

    def __init__(self, module, handle):
        self.module, self.handle = module, handle

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def call(self, function, *args):
        self.module.call(function, c_ulong(self.handle), *args)

    def close(self):
        self.call("C_CloseSession")

    def login(self, pin, user=None):
        self.call("C_Login", c_ulong(ck.CKU_USER if user is None else user), pin, c_ulong(len(pin)))

    def logout(self):
        self.call("C_Logout")

    @property
    def domain(self):
        return Domain(self)

    # Objects

    def create(self, attributes):
        array, alive = template(attributes)
        handle = c_ulong()
        self.call("C_CreateObject", array, c_ulong(len(array)), byref(handle))
        del alive
        return handle.value

    def copy(self, handle, attributes):
        array, alive = template(attributes)
        made = c_ulong()
        self.call("C_CopyObject", c_ulong(handle), array, c_ulong(len(array)), byref(made))
        del alive
        return made.value

    def destroy(self, handle):
        self.call("C_DestroyObject", c_ulong(handle))

    def get(self, handle, kind):
        """The attribute's bytes."""
        attribute = CK_ATTRIBUTE(kind, None, 0)
        self.call("C_GetAttributeValue", c_ulong(handle), byref(attribute), c_ulong(1))
        buffer = ctypes.create_string_buffer(max(attribute.ulValueLen, 1))
        attribute.pValue = ctypes.cast(buffer, c_void_p)
        self.call("C_GetAttributeValue", c_ulong(handle), byref(attribute), c_ulong(1))
        return buffer.raw[:attribute.ulValueLen]

    def get_number(self, handle, kind):
        return int.from_bytes(self.get(handle, kind), "little")

    def set(self, handle, attributes):
        array, alive = template(attributes)
        self.call("C_SetAttributeValue", c_ulong(handle), array, c_ulong(len(array)))
        del alive

    def find(self, attributes):
        array, alive = template(attributes)
        self.call("C_FindObjectsInit", array, c_ulong(len(array)))
        del alive
        found, handles, count = [], (c_ulong * 64)(), c_ulong()
        while True:
            self.call("C_FindObjects", handles, c_ulong(64), byref(count))
            if not count.value:
                break
            found += handles[:count.value]
        self.call("C_FindObjectsFinal")
        return found

    # Operations

    def _init(self, function, mechanism, *key):
        if isinstance(mechanism, int):
            mechanism = Mechanism(mechanism)
        self.call(function, byref(mechanism.c), *map(c_ulong, key))

    def _out(self, function, *args, room=None):
        """Calls with an output buffer at the end of the arguments; asks for its size if not told."""
        length = c_ulong(room or 0)
        if room is None:
            self.call(function, *args, None, byref(length))
        while True:
            buffer = ctypes.create_string_buffer(max(length.value, 1))
            had = length.value
            try:
                self.call(function, *args, buffer, byref(length))
                return buffer.raw[:length.value]
            except Error as error:
                # What is shared, such as the log, may have grown since it was asked for its length.
                if room is not None or error.rv != ck.CKR_BUFFER_TOO_SMALL or length.value <= had:
                    raise

    def _run(self, name, mechanism, key, data, parts):
        self._init(f"C_{name}Init", mechanism, *key)
        if not parts:
            return self._out(f"C_{name}", data, c_ulong(len(data)), room=len(data) + 1024)
        out = b""
        at = 0
        while at < len(data):
            part = data[at:at + parts]
            at += parts
            if name in ("Encrypt", "Decrypt"):
                out += self._out(f"C_{name}Update", part, c_ulong(len(part)), room=len(part) + 64)
            else:
                self.call(f"C_{name}Update", part, c_ulong(len(part)))
        return out + self._out(f"C_{name}Final", room=len(data) + 1024)

    def encrypt(self, mechanism, key, data, parts=0):
        """`parts`: bytes per C_EncryptUpdate; 0 for one C_Encrypt."""
        return self._run("Encrypt", mechanism, [key], data, parts)

    def decrypt(self, mechanism, key, data, parts=0):
        return self._run("Decrypt", mechanism, [key], data, parts)

    def digest(self, mechanism, data, parts=0):
        return self._run("Digest", mechanism, [], data, parts)

    def sign(self, mechanism, key, data, parts=0):
        return self._run("Sign", mechanism, [key], data, parts)

    def verify(self, mechanism, key, data, signature, parts=0):
        """True, or False for a wrong signature."""
        self._init("C_VerifyInit", mechanism, key)
        try:
            if parts:
                for at in range(0, len(data), parts):
                    part = data[at:at + parts]
                    self.call("C_VerifyUpdate", part, c_ulong(len(part)))
                self.call("C_VerifyFinal", signature, c_ulong(len(signature)))
            else:
                self.call("C_Verify", data, c_ulong(len(data)), signature, c_ulong(len(signature)))
        except Error as error:
            if error.rv in (ck.CKR_SIGNATURE_INVALID, ck.CKR_SIGNATURE_LEN_RANGE):
                return False
            raise
        return True

    # Keys

    def generate(self, mechanism, attributes):
        if isinstance(mechanism, int):
            mechanism = Mechanism(mechanism)
        array, alive = template(attributes)
        handle = c_ulong()
        self.call("C_GenerateKey", byref(mechanism.c), array, c_ulong(len(array)), byref(handle))
        del alive
        return handle.value

    def generate_pair(self, mechanism, public, private):
        if isinstance(mechanism, int):
            mechanism = Mechanism(mechanism)
        first, alive = template(public)
        second, more = template(private)
        handles = c_ulong(), c_ulong()
        self.call("C_GenerateKeyPair", byref(mechanism.c), first, c_ulong(len(first)), second, c_ulong(len(second)),
                  byref(handles[0]), byref(handles[1]))
        del alive, more
        return handles[0].value, handles[1].value

    def wrap(self, mechanism, wrapping, key):
        if isinstance(mechanism, int):
            mechanism = Mechanism(mechanism)
        return self._out("C_WrapKey", byref(mechanism.c), c_ulong(wrapping), c_ulong(key))

    def unwrap(self, mechanism, unwrapping, wrapped, attributes):
        if isinstance(mechanism, int):
            mechanism = Mechanism(mechanism)
        array, alive = template(attributes)
        handle = c_ulong()
        self.call("C_UnwrapKey", byref(mechanism.c), c_ulong(unwrapping), wrapped, c_ulong(len(wrapped)), array,
                  c_ulong(len(array)), byref(handle))
        del alive
        return handle.value

    def wrap_authenticated(self, mechanism, wrapping, key, associated=b""):
        return self._out("C_WrapKeyAuthenticated", byref(mechanism.c), c_ulong(wrapping), c_ulong(key), associated,
                         c_ulong(len(associated)))

    def unwrap_authenticated(self, mechanism, unwrapping, wrapped, attributes, associated=b""):
        array, alive = template(attributes)
        handle = c_ulong()
        self.call("C_UnwrapKeyAuthenticated", byref(mechanism.c), c_ulong(unwrapping), wrapped, c_ulong(len(wrapped)),
                  array, c_ulong(len(array)), associated, c_ulong(len(associated)), byref(handle))
        del alive
        return handle.value

    def derive(self, mechanism, base, attributes):
        if isinstance(mechanism, int):
            mechanism = Mechanism(mechanism)
        array, alive = template(attributes)
        handle = c_ulong()
        self.call("C_DeriveKey", byref(mechanism.c), c_ulong(base), array, c_ulong(len(array)), byref(handle))
        del alive
        return handle.value

    def random(self, count):
        buffer = ctypes.create_string_buffer(max(count, 1))
        self.call("C_GenerateRandom", buffer, c_ulong(count))
        return buffer.raw[:count]


class Domain:
    """The domain behind a session's token, by the vendor's KMS_ functions. Proposals, tokens, histories,
    keys (DER SubjectPublicKeyInfo) and signatures (r and s) are bytes; what is described is JSON, parsed."""

    def __init__(self, session):
        self.session = session

    def _call(self, function, *inputs):
        self.session.call(function, *sized(inputs))

    def _out(self, function, *inputs):
        return self.session._out(function, *sized(inputs))

    def describe(self):
        return json.loads(self._out("KMS_DescribeDomain"))

    def propose(self, request):
        """`request` is {"command": NAME, ...}. The proposal, which is pending then."""
        text = request if isinstance(request, bytes) else json.dumps(request).encode()
        return self._out("KMS_Propose", text)

    def describe_proposal(self, proposal):
        return json.loads(self._out("KMS_DescribeProposal", proposal))

    def bytes_to_sign(self, proposal, public_key):
        return self._out("KMS_BytesToSign", proposal, public_key)

    def add_signature(self, proposal, public_key, signature):
        """The proposal with all signatures, which is pending then."""
        return self._out("KMS_AddSignature", proposal, public_key, signature)

    def put(self, proposal):
        """Keeps a proposal as pending; it with the signatures that were there."""
        return self._out("KMS_PutProposal", proposal)

    def proposals(self):
        return json.loads(self._out("KMS_ListProposals"))

    def proposal(self, id_):
        return self._out("KMS_GetProposal", id_)

    def withdraw(self, id_):
        self._call("KMS_WithdrawProposal", id_)

    def execute(self, proposal):
        self._call("KMS_Execute", proposal)

    def export_token(self):
        return self._out("KMS_ExportDomainToken")

    def history(self):
        return self._out("KMS_ReadLog")

    def import_history(self, history):
        self._call("KMS_ImportDomain", history)

    def set_enrolled_pin(self, pin, user=None, name=None, code=None):
        """`user` is CKU_USER unless said otherwise; `name` that of a named user."""
        user = ck.CKU_USER if user is None else user
        self.session.call("KMS_SetEnrolledPIN", c_ulong(user), *sized([name, code, pin]))


def sized(inputs):
    """Each input and its length. None is NULL."""
    return [argument for data in inputs for argument in (data, c_ulong(len(data or b"")))]
