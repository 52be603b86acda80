"""The state table of managed keys, cell by cell over the C ABI: the table itself, as the specification has it, says
what must come of each action in each state. A KMS_ function answers with the vendor's code, a function of the
standard with CKR_KEY_FUNCTION_NOT_PERMITTED.

PendingReplicaDeletion, Creating and Updating are states of multi-Region keys, whose Regions are two tokens of this
process."""

import itertools

import pytest
from cryptoki import Mechanism, ck, ecdh
from managed import envelope, open_kms, outcome
from material import MATERIAL, wrap
from regions import Here

pytestmark = pytest.mark.one_store("whether a key may be used is decided before anything is stored")

TABLE = """
| action | Enabled | Disabled | PendingDeletion, PendingReplicaDeletion | PendingImport | Creating | Updating |
| --- | --- | --- | --- | --- | --- | --- |
| encrypt, decrypt, sign, verify, MAC, agree, data keys | yes | disabled | state | state | state | yes |
| replicate | yes | disabled | state | state | state | state |
| make primary | yes | disabled | state | state | state | yes |
| enable, disable | yes | yes | state | state | state | state |
| schedule deletion | yes | yes | state | yes | yes | state |
| cancel deletion | state | state | yes | state | state | state |
| create grant | yes | disabled | state | state | state | yes |
| public key | yes | yes | state | yes | state | yes |
| parameters for import | yes | yes | state | yes | state | state |
| import material | yes | yes | state | yes | state | yes |
| delete imported material | yes | yes | yes | yes | state | state |
| set rotation | yes | disabled | state | unsupported | state | yes |
| rotate | yes | disabled | state | state | state | yes |
| rotation status, list rotations, describe, policies, list, retire, revoke, delete alias | yes | yes | yes | yes | yes | yes |
| create alias, tag, set description | yes | yes | state | yes | yes | yes |
| update alias | from any state, but not *to* a key pending deletion | | | | | |
"""

STATES = ["Enabled", "Disabled", "PendingDeletion", "PendingReplicaDeletion", "PendingImport", "Creating", "Updating"]
OF_SEVERAL_REGIONS = {"PendingReplicaDeletion", "Creating", "Updating", "replicate", "make primary"}
# A key that is being created anew in a Region has no grants there.
UNREACHABLE = {("retire", "Creating"), ("revoke", "Creating")}
# The table lets a key in Updating rotate; the old primary of a handover may not (docs/protocols.md, "Replication").
HANDING_OVER = {("rotate", "Updating"), ("set rotation", "Updating")}
VENDOR = {"yes": "CKR_OK", "disabled": "KMS_R_DISABLED", "state": "KMS_R_INVALID_STATE", "unsupported": "KMS_R_UNSUPPORTED"}
STANDARD = {said: "CKR_OK" if said == "yes" else "CKR_KEY_FUNCTION_NOT_PERMITTED" for said in VENDOR}
# A public key is an attribute, and what may not be read is sensitive.
ATTRIBUTE = {"yes": "CKR_OK", "state": "CKR_ATTRIBUTE_SENSITIVE"}

WRAP = Mechanism(ck.CKM_KMS_WRAP)

SPECS = {
    "AES": ("AES_256", "ENCRYPT_DECRYPT"),
    "MAC": ("HMAC_256", "GENERATE_VERIFY_MAC"),
    "sign": ("ECC_NIST_P256", "SIGN_VERIFY"),
    "agree": ("ECC_NIST_P256", "KEY_AGREEMENT"),
}
P256_POINT = bytes.fromhex("046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
                           "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5")


def cells():
    """(action, state, what the table says) of each cell."""
    rows = [[field.strip() for field in line.strip("|").split("|")] for line in TABLE.strip().splitlines()]
    columns = rows[0][1:]
    for actions, *said in rows[2:]:
        if actions == "update alias":
            # Its row is a sentence, which is that of these two.
            for state in itertools.chain(*(states.split(", ") for states in columns)):
                yield "update alias from", state, "yes"
                yield "update alias to", state, "state" if state.endswith("Deletion") else "yes"
            continue
        assert len(said) == len(columns)
        for action, (states, verdict) in itertools.product(actions.split(", "), zip(columns, said)):
            for state in states.split(", "):
                yield action, state, verdict


@pytest.fixture(scope="module")
def kms(module):
    return open_kms(module, "states")


@pytest.fixture(scope="module")
def regions(module):
    """Two that trust each other."""
    a, b = Here(module, "states-a"), Here(module, "states-b")
    for one, other in (a, b), (b, a):
        one.trust(other.party, other.replication_keys())
    return a, b


class Subject:
    """A key of a kind, in a state. What the actions need of it is made before it comes into the state. Its material
    is imported if `external`, and where the state asks for it. It has a grant if it is `shared`."""

    names = itertools.count()

    def __init__(self, kms, kind, state, external=False, shared=False, multi_region=False):
        self.kms, self.session = kms, kms.session
        spec, usage = SPECS[kind]
        external |= state == "PendingImport"
        more = {"Origin": "EXTERNAL"} if external else {}
        if multi_region:
            more.update(MultiRegion=True, **({"ReplicateImportedMaterial": True} if external else {}))
        self.id = kms.create(spec, KeyUsage=usage, **more)
        if external:
            public, self.token, _ = kms.import_parameters(self.id)
            self.wrapped = wrap(public, MATERIAL[spec]())
            self.bring()
        self.objects = kms.objects(self.id)
        self.alias = f"alias/subject-{next(self.names)}"
        kms.create_alias(self.alias, self.id)
        if shared:
            self.policy = kms.ask("GetKeyPolicy", KeyId=self.id)["Policy"]
            self.grant = kms.ask("CreateGrant", KeyId=self.id, GranteePrincipal="user", Operations=["DescribeKey"])
        if kind == "AES":
            self.blob = kms.encrypt(self.id, b"before")
            self.elsewhere = kms.create()
            self.foreign = kms.encrypt(self.elsewhere, b"elsewhere")
            self.carried = self.session.generate(ck.CKM_AES_KEY_GEN, {
                ck.CKA_VALUE_LEN: 32, ck.CKA_EXTRACTABLE: True, ck.CKA_SENSITIVE: False})
            self.wrapped_key = self.session.wrap_authenticated(WRAP, self.key, self.carried)
        if kind == "MAC":
            self.signature = self.session.sign(ck.CKM_SHA256_HMAC, self.key, b"data")
        if kind == "sign":
            self.signature = self.session.sign(ck.CKM_ECDSA_SHA256, self.key, b"data")
        self.come_into(state)
        assert self.kms.describe(self.id)["KeyState"] == state
        shown = self.session.get_number(self.key, ck.CKA_KMS_STATE)
        assert ck.name("KMS_STATE_", shown).removeprefix("KMS_STATE_").replace("_", "").lower() == state.lower()

    def come_into(self, state):
        kms = self.kms
        if state == "Disabled":
            kms.disable(self.id)
        if state == "PendingDeletion":
            kms.schedule_deletion(self.id)
        if state == "PendingImport":
            kms.delete_material(self.id)

    @property
    def key(self):
        return self.objects[0]

    @property
    def public(self):
        return self.objects[1]

    def bring(self):
        self.kms.import_material(self.id, self.token, self.wrapped)

    def ask(self, name, **members):
        self.kms.ask(name, KeyId=self.id, **members)

    def verify(self, mechanism, key):
        assert self.session.verify(mechanism, key, b"data", self.signature)


class OfSeveralRegions(Subject):
    """A multi-Region key of the first Region with a replica in the second; in Creating, that replica. A key that waits
    for its deletion, or for its material, has none."""

    def __init__(self, regions, kind, state, external=False, shared=False):
        self.a, self.b = regions
        super().__init__(self.a.kms, kind, state, external, shared, multi_region=True)

    def come_into(self, state):
        if state not in ("PendingDeletion", "PendingImport"):
            self.a.replicate(self.id, self.b.party.region)
            receipt = self.b.receive(self.a.ship(self.b.offer(self.a.party.region, self.id)))
            activate = self.a.receive(receipt)
            if state == "Creating":
                self.move(self.b.kms)
                return
            self.a.receive(self.b.receive(activate))
        if state == "PendingReplicaDeletion":
            self.kms.schedule_deletion(self.id)
        elif state == "Updating":
            self.a.promote(self.id, self.b.party.region)
        else:
            super().come_into(state)

    def move(self, kms):
        """To the other Region, with what the actions need there. What was encrypted for the key elsewhere, and what it
        wrapped, are of any Region."""
        self.kms, self.session = kms, kms.session
        self.objects = kms.objects(self.id)
        kms.create_alias(self.alias, self.id)
        self.policy = kms.ask("GetKeyPolicy", KeyId=self.id)["Policy"]
        self.elsewhere = kms.create()
        self.foreign = kms.encrypt(self.elsewhere, b"elsewhere")
        self.carried = self.session.generate(ck.CKM_AES_KEY_GEN, {
            ck.CKA_VALUE_LEN: 32, ck.CKA_EXTRACTABLE: True, ck.CKA_SENSITIVE: False})


def by(kind, codes, call, external=False, without=None):
    """A way to do it with a key of a kind, and the return codes; `without` is that of a key that has no material, and so
    no public half."""
    return kind, {**codes, "PendingImport": without}, call, external


# What is done to a key for each action, in each way that there is.
ACTIONS = {
    "encrypt": [
        by("AES", VENDOR, lambda s: s.kms.encrypt(s.id, b"data")),
        by("AES", STANDARD, lambda s: s.session.encrypt(envelope(), s.key, b"data")),
        by("AES", VENDOR, lambda s: s.kms.reencrypt(s.foreign, s.id)),
    ],
    "decrypt": [
        by("AES", VENDOR, lambda s: s.kms.decrypt(s.blob)),
        by("AES", STANDARD, lambda s: s.session.decrypt(envelope(), s.key, s.blob)),
        by("AES", VENDOR, lambda s: s.kms.reencrypt(s.blob, s.elsewhere)),
    ],
    "sign": [by("sign", STANDARD, lambda s: s.session.sign(ck.CKM_ECDSA_SHA256, s.key, b"data"))],
    "verify": [by("sign", STANDARD, lambda s: s.verify(ck.CKM_ECDSA_SHA256, s.public),
                  without="CKR_KEY_HANDLE_INVALID")],
    "MAC": [
        by("MAC", STANDARD, lambda s: s.session.sign(ck.CKM_SHA256_HMAC, s.key, b"data")),
        by("MAC", STANDARD, lambda s: s.verify(ck.CKM_SHA256_HMAC, s.key)),
    ],
    "agree": [by("agree", STANDARD, lambda s: s.session.derive(ecdh(P256_POINT), s.key, {
        ck.CKA_CLASS: ck.CKO_SECRET_KEY, ck.CKA_KEY_TYPE: ck.CKK_GENERIC_SECRET, ck.CKA_VALUE_LEN: 32}))],
    "data keys": [
        by("AES", VENDOR, lambda s: s.kms.data_key(s.id)),
        by("AES", VENDOR, lambda s: s.kms.data_key(s.id, plaintext=False)),
        by("AES", VENDOR, lambda s: s.kms.data_key_pair(s.id, "ECC_NIST_P256")),
        by("AES", VENDOR, lambda s: s.kms.data_key_pair(s.id, "ECC_NIST_P256", plaintext=False)),
        by("AES", STANDARD, lambda s: s.session.wrap_authenticated(WRAP, s.key, s.carried)),
        by("AES", STANDARD, lambda s: s.session.unwrap_authenticated(WRAP, s.key, s.wrapped_key, {})),
    ],
    "enable": [by("AES", VENDOR, lambda s: s.kms.enable(s.id))],
    "disable": [by("AES", VENDOR, lambda s: s.kms.disable(s.id))],
    "schedule deletion": [by("AES", VENDOR, lambda s: s.kms.schedule_deletion(s.id))],
    "cancel deletion": [by("AES", VENDOR, lambda s: s.kms.cancel_deletion(s.id))],
    "create grant": [by("AES", VENDOR, lambda s: s.ask("CreateGrant", GranteePrincipal="so", Operations=["DescribeKey"]))],
    "public key": [
        by("sign", ATTRIBUTE, lambda s: s.session.get(s.public, ck.CKA_PUBLIC_KEY_INFO), without="CKR_OBJECT_HANDLE_INVALID"),
        by("sign", ATTRIBUTE, lambda s: s.session.get(s.public, ck.CKA_EC_POINT), without="CKR_OBJECT_HANDLE_INVALID"),
        by("sign", ATTRIBUTE, lambda s: s.session.get(s.key, ck.CKA_PUBLIC_KEY_INFO), without="CKR_ATTRIBUTE_TYPE_INVALID"),
    ],
    "parameters for import": [by("AES", VENDOR, lambda s: s.kms.import_parameters(s.id), True)],
    "import material": [by("AES", VENDOR, lambda s: s.bring(), True), by("sign", VENDOR, lambda s: s.bring(), True)],
    "delete imported material": [by("AES", VENDOR, lambda s: s.kms.delete_material(s.id), True)],
    "set rotation": [by("AES", VENDOR, lambda s: s.kms.set_rotation(s.id, 90))],
    "rotate": [by("AES", VENDOR, lambda s: s.kms.rotate(s.id))],
    "rotation status": [by("AES", VENDOR, lambda s: s.ask("GetKeyRotationStatus"))],
    "list rotations": [by("AES", VENDOR, lambda s: s.kms.rotations(s.id))],
    "describe": [
        by("AES", VENDOR, lambda s: s.kms.describe(s.id)),
        by("AES", STANDARD, lambda s: s.session.get(s.key, ck.CKA_KMS_DESCRIPTION)),
    ],
    "policies": [
        by("AES", VENDOR, lambda s: s.ask("GetKeyPolicy")),
        by("AES", VENDOR, lambda s: s.ask("PutKeyPolicy", Policy=s.policy)),
    ],
    "list": [
        by("AES", VENDOR, lambda s: s.kms.aliases(KeyId=s.id)),
        by("AES", VENDOR, lambda s: s.ask("ListGrants")),
        by("AES", VENDOR, lambda s: s.kms.keys()),
    ],
    "retire": [by("AES", VENDOR, lambda s: s.ask("RetireGrant", GrantId=s.grant))],
    "revoke": [by("AES", VENDOR, lambda s: s.ask("RevokeGrant", GrantId=s.grant))],
    "delete alias": [by("AES", VENDOR, lambda s: s.kms.delete_alias(s.alias))],
    "create alias": [by("AES", VENDOR, lambda s: s.kms.create_alias(s.alias + "-more", s.id))],
    "tag": [
        by("AES", VENDOR, lambda s: s.kms.tag(s.id, {"name": "value"})),
        by("AES", VENDOR, lambda s: s.kms.untag(s.id, ["name"])),
    ],
    "set description": [
        by("AES", VENDOR, lambda s: s.kms.set_description(s.id, "another")),
        by("AES", STANDARD, lambda s: s.session.set(s.key, {ck.CKA_KMS_DESCRIPTION: "another"})),
    ],
    "update alias from": [by("AES", VENDOR, lambda s: s.kms.update_alias(s.alias, s.elsewhere))],
    "update alias to": [by("AES", VENDOR, lambda s: (s.kms.create_alias(s.alias + "-to", s.elsewhere),
                                                     s.kms.update_alias(s.alias + "-to", s.id)))],
}

# Of multi-Region keys only.
ACTIONS["replicate"] = [by("AES", VENDOR, lambda s: s.ask("ReplicateKey", ReplicaRegion="states-b"))]
ACTIONS["make primary"] = [by("AES", VENDOR, lambda s: s.ask("UpdatePrimaryRegion", PrimaryRegion="states-b"))]

CELLS = list(cells())
REACHED = [cell for cell in CELLS if cell[:2] not in UNREACHABLE]


def test_the_table_is_whole():
    assert {action for action, *_ in REACHED} == set(ACTIONS)
    assert {state for _, state, _ in REACHED} == set(STATES)
    assert {said for *_, said in CELLS} == set(VENDOR)
    assert len(CELLS) == 33 * 7


def cases():
    for action, state, said in REACHED:
        # The HSM decides these the same either way, and test_managed has keys of all states over a fleet.
        marks = [] if state in OF_SEVERAL_REGIONS else [pytest.mark.embedded("takes long, and crosses no Region")]
        yield pytest.param(action, state, said, marks=marks, id=f"{action}-{state}".replace(" ", "_"))


@pytest.mark.parametrize(("action", "state", "said"), list(cases()))
def test_a_cell(kms, regions, action, state, said):
    for kind, codes, call, external in ACTIONS[action]:
        shared = action in ("policies", "retire", "revoke")
        if OF_SEVERAL_REGIONS & {action, state}:
            subject = OfSeveralRegions(regions, kind, state, external, shared and state != "Creating")
        else:
            subject = Subject(kms, kind, state, external, shared)
        before = subject.kms.describe(subject.id)
        expected = "KMS_R_INVALID_STATE" if (action, state) in HANDING_OVER else codes.get(state) or codes[said]
        assert outcome(lambda: call(subject)) == expected, (action, state)
        if said != "yes":
            assert subject.kms.describe(subject.id) == before
