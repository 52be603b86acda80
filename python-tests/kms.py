"""Managed keys through ctypes."""

import ctypes
import json
from ctypes import byref, c_ulong

from cryptoki import ck, sized


class Kms:
    """Managed keys, by the vendor's KMS_ functions. A key is named by its id or an alias; an encryption context is a
    dict of texts, or bytes as they are; requests are members by name. `dry_run=True` does nothing but raise
    KMS_R_DRY_RUN where something would have been done."""

    _CHANGES = """EnableKey DisableKey ScheduleKeyDeletion CancelKeyDeletion UpdateKeyDescription TagKey UntagKey CreateAlias
        UpdateAlias DeleteAlias RotateKey SetRotation DeleteImportedKeyMaterial PutKeyPolicy RetireGrant RevokeGrant
        RunDue ReplicateKey UpdatePrimaryRegion""".split()
    _CREATIONS = ["CreateKey", "CreateGrant"]
    _QUERIES = """DescribeKey ListKeys ListAliases GetKeyRotationStatus ListRotations GetKeyPolicy ListGrants
        ListUsers DescribeReplicas PendingReplication""".split()

    def __init__(self, session):
        self.session = session

    def ask(self, name, request=None, /, dry_run=False, **members):
        """KMS_`name` with a request: a change gives None, a creation the id, a query its answer."""
        text = request if isinstance(request, bytes) else json.dumps({**(request or {}), **members}).encode()
        function, data = f"KMS_{name}", (text, c_ulong(len(text)))
        if name in self._QUERIES:
            return json.loads(self.session._out(function, *data))
        if name in self._CREATIONS:
            return self.session._out(function, self._flags(dry_run), *data).decode()
        return self.session.call(function, self._flags(dry_run), *data)

    @staticmethod
    def _flags(dry_run):
        return c_ulong(ck.KMS_DRY_RUN if dry_run else 0)

    @staticmethod
    def context(context):
        return context if isinstance(context, bytes) else json.dumps(context or {}).encode()

    # Keys

    def create(self, spec=None, dry_run=False, **members):
        """The new key's id."""
        return self.ask("CreateKey", {"KeySpec": spec} if spec else {}, dry_run=dry_run, **members)

    def describe(self, key):
        return self.ask("DescribeKey", KeyId=key)

    def list(self, name, items, **members):
        """All items of a list, page by page."""
        found = []
        while True:
            page = self.ask(name, **members)
            found += page[items]
            if not page.get("Truncated"):
                return found
            members["Marker"] = page["NextMarker"]

    def keys(self, **members):
        return self.list("ListKeys", "Keys", **members)

    def aliases(self, **members):
        return self.list("ListAliases", "Aliases", **members)

    def rotations(self, key, **members):
        return self.list("ListRotations", "Rotations", KeyId=key, **members)

    def enable(self, key, **more):
        self.ask("EnableKey", KeyId=key, **more)

    def disable(self, key, **more):
        self.ask("DisableKey", KeyId=key, **more)

    def schedule_deletion(self, key, days=None, **more):
        self.ask("ScheduleKeyDeletion", {"PendingWindowInDays": days} if days else {}, KeyId=key, **more)

    def cancel_deletion(self, key, **more):
        self.ask("CancelKeyDeletion", KeyId=key, **more)

    def set_description(self, key, text, **more):
        self.ask("UpdateKeyDescription", KeyId=key, Description=text, **more)

    def tag(self, key, tags, **more):
        self.ask("TagKey", KeyId=key, Tags=[{"TagKey": k, "TagValue": v} for k, v in tags.items()], **more)

    def untag(self, key, names, **more):
        self.ask("UntagKey", KeyId=key, TagKeys=names, **more)

    def create_alias(self, name, key, **more):
        self.ask("CreateAlias", AliasName=name, TargetKeyId=key, **more)

    def update_alias(self, name, key, **more):
        self.ask("UpdateAlias", AliasName=name, TargetKeyId=key, **more)

    def delete_alias(self, name, **more):
        self.ask("DeleteAlias", AliasName=name, **more)

    def rotate(self, key, **more):
        self.ask("RotateKey", KeyId=key, **more)

    def set_rotation(self, key, days=None, enabled=True, **more):
        period = {"RotationPeriodInDays": days} if days else {}
        self.ask("SetRotation", period, KeyId=key, Enabled=enabled, **more)

    def run_due(self, **more):
        self.ask("RunDue", **more)

    # Envelopes

    def encrypt(self, key, plaintext, context=None, dry_run=False):
        """The blob."""
        inputs = sized([key.encode(), self.context(context), plaintext])
        return self.session._out("KMS_Encrypt", self._flags(dry_run), *inputs)

    def decrypt(self, blob, context=None, key=None, dry_run=False):
        """`key` None: whichever the blob names."""
        inputs = sized([key and key.encode(), self.context(context), blob])
        return self.session._out("KMS_Decrypt", self._flags(dry_run), *inputs)

    def reencrypt(self, blob, key, source_context=None, context=None, dry_run=False):
        inputs = sized([self.context(source_context), blob, key.encode(), self.context(context)])
        return self.session._out("KMS_ReEncrypt", self._flags(dry_run), *inputs)

    def data_key(self, key, length=32, context=None, plaintext=True, dry_run=False):
        """(the data key, or None; its blob)."""
        inputs = [self._flags(dry_run), *sized([key.encode()]), c_ulong(length), *sized([self.context(context)])]
        if plaintext:
            return tuple(self._outputs("KMS_GenerateDataKey", *inputs, count=2))
        return None, self.session._out("KMS_GenerateDataKeyWithoutPlaintext", *inputs)

    def data_key_pair(self, key, spec, context=None, plaintext=True, dry_run=False):
        """(public key, DER; private key, PKCS#8, or None; its blob)."""
        inputs = [self._flags(dry_run), *sized([key.encode(), spec.encode(), self.context(context)])]
        if plaintext:
            return tuple(self._outputs("KMS_GenerateDataKeyPair", *inputs, count=3))
        public, blob = self._outputs("KMS_GenerateDataKeyPairWithoutPlaintext", *inputs, count=2)
        return public, None, blob

    def _outputs(self, function, *inputs, count, last=()):
        """The outputs of a function with several: asked for their lengths first."""
        lengths = [c_ulong() for _ in range(count)]
        self.session.call(function, *inputs, *[one for length in lengths for one in (None, byref(length))], *last)
        buffers = [ctypes.create_string_buffer(max(length.value, 1)) for length in lengths]
        outputs = [one for buffer, length in zip(buffers, lengths) for one in (buffer, byref(length))]
        self.session.call(function, *inputs, *outputs, *last)
        return [buffer.raw[:length.value] for buffer, length in zip(buffers, lengths)]

    # Import

    def import_parameters(self, key, algorithm="RSAES_OAEP_SHA_256", spec="RSA_2048", dry_run=False):
        """(wrapping key, DER SubjectPublicKeyInfo; import token; until when both are good)."""
        inputs = sized([key.encode(), algorithm.encode(), spec.encode()])
        until = c_ulong()
        public, token = self._outputs("KMS_GetParametersForImport", self._flags(dry_run), *inputs, count=2,
                                      last=[byref(until)])
        return public, token, until.value

    def import_material(self, key, token, wrapped, valid_to=0, dry_run=False):
        """`valid_to`: seconds since 1970; 0 if the material does not expire."""
        inputs = sized([key.encode(), token, wrapped])
        self.session.call("KMS_ImportKeyMaterial", self._flags(dry_run), *inputs, c_ulong(valid_to))

    def delete_material(self, key, **more):
        self.ask("DeleteImportedKeyMaterial", KeyId=key, **more)

    # Other Regions. Messages are bytes.

    def tell_replicas(self, kind, region, keys):
        return self._message("TellReplicas", Kind=kind, Region=region, KeyIds=keys)

    def offer_replicas(self, region, keys):
        return self._message("OfferReplicas", Region=region, KeyIds=keys)

    def _message(self, name, **members):
        return self.session._out(f"KMS_{name}", *sized([json.dumps(members).encode()]))

    def ship_replicas(self, offer):
        return self.session._out("KMS_ShipReplicas", *sized([offer]))

    def accept_replicas(self, shipment):
        self.session.call("KMS_AcceptReplicas", *sized([shipment]))

    def confirm_replicas(self, shipment):
        """The receipt."""
        return self.session._out("KMS_ConfirmReplicas", *sized([shipment]))

    def receive_replication(self, message):
        """The answer; None if there is none."""
        return self.session._out("KMS_ReceiveReplication", *sized([message])) or None

    # The audit log

    def audit_head(self):
        return self.session._out("KMS_AuditHead")

    def read_audit(self, room=1 << 20, after=0):
        """All rows, or those after a row's id, page by page."""
        rows, last = [], c_ulong(after)
        while True:
            lines, length = ctypes.create_string_buffer(room), c_ulong(room)
            self.session.call("KMS_ReadAudit", c_ulong(last.value), lines, byref(length), byref(last))
            if not length.value:
                return rows
            rows += [json.loads(line) for line in lines.raw[:length.value].splitlines()]

    def verify_audit(self, head=None):
        return json.loads(self.session._out("KMS_VerifyAudit", *sized([head])))

    # Objects

    def objects(self, key):
        """Handles of the key's objects: of the secret key, or of private and public key."""
        found = self.session.find({ck.CKA_ID: key.encode()})
        order = [ck.CKO_SECRET_KEY, ck.CKO_PRIVATE_KEY, ck.CKO_PUBLIC_KEY]
        return sorted(found, key=lambda handle: order.index(self.session.get_number(handle, ck.CKA_CLASS)))
