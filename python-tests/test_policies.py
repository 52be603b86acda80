"""Who may use a managed key: users, policies and grants over the C ABI, each user in a process of its own."""

import pytest
from ceremony import Ceremony
from conftest import FLEETS, PIN, SO_PIN
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptoki import Error, ck, sized
from users import User

LABEL = "policies"
PINS = {"so": SO_PIN, "user": PIN, "alice": "alice's-pin", "bob": "bob's-pin-1"}
DENIED, DENIED_BY_STANDARD = "KMS_R_ACCESS_DENIED", "CKR_KEY_FUNCTION_NOT_PERMITTED"


def process(name, pin=None):
    """In which this user is logged in."""
    return User(None, LABEL, name, pin or PINS[name])


@pytest.fixture(scope="module")
def people(module):
    """Everybody by name."""
    slot = module.make_token(LABEL, SO_PIN.encode(), PIN.encode())
    so = process("so")
    governing = FLEETS.fleet(slot) if FLEETS else so
    for name in ("alice", "bob"):
        governing.create_user(name, PINS[name])
    there = {"so": so, **{name: process(name) for name in ("user", "alice", "bob")}}
    yield {**there, "governing": governing}
    for one in there.values():
        one.close()


@pytest.fixture
def governing(people):
    """Who makes and removes users: the SO, or a fleet's quorum."""
    return people["governing"]


@pytest.fixture
def so(people):
    return people["so"]


@pytest.fixture
def user(people):
    return people["user"]


@pytest.fixture
def alice(people):
    return people["alice"]


@pytest.fixture
def bob(people):
    return people["bob"]


def allow(*principals, actions=("*",), **context):
    statement = {"Principal": list(principals), "Action": list(actions)}
    return {**statement, "Context": {name.capitalize(): pairs for name, pairs in context.items()}} if context else statement


def put(owner, key, *statements):
    owner.ask("PutKeyPolicy", KeyId=key, Policy={"Statement": list(statements)})


def grant(by, key, grantee, operations, **more):
    return by.ask("CreateGrant", KeyId=key, GranteePrincipal=grantee, Operations=operations, **more)


@pytest.mark.embedded("the SO makes users only where he governs")
def test_the_so_makes_users(so, user, alice):
    assert so.refusal("create_user", "alice", "another-pin") == "KMS_R_ALREADY_EXISTS"
    assert alice.refusal("create_user", "carol", "carols-pin") == "CKR_USER_NOT_LOGGED_IN"
    assert user.refusal("remove_user", "alice") == "CKR_USER_NOT_LOGGED_IN"
    for name in ("", "so", "USER", "user:alice", "*", "a\tb", "x" * 65):
        assert so.refusal("create_user", name, "carols-pin") == "CKR_ARGUMENTS_BAD", name
    assert so.refusal("create_user", "carol", "1") == "CKR_PIN_LEN_RANGE"
    assert so.refusal("remove_user", "carol") == "KMS_R_NOT_FOUND"
    listed = {one["Principal"]: one["HasPin"] for one in alice.ask("ListUsers")["Users"]}
    assert listed == {"so": True, "user": True, "user:alice": True, "user:bob": True}


def test_ordinary_keys_are_everybodys(user, alice, bob):
    made = alice.ordinary("of the token", True)
    assert bob.ordinary("of the token", False) == user.ordinary("of the token", False) == made


def test_nothing_is_allowed_that_nothing_allows(user, alice):
    """Every way to a key that is another's."""
    aes = user.create(Label="user's own", StandardMechanisms=True)
    mine = alice.create()
    blob, others = user.encrypt(aes, b"secret"), alice.encrypt(mine, b"hers")
    ec_key = user.create("ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    rsa = user.create("RSA_2048", KeyUsage="ENCRYPT_DECRYPT")
    mac = user.create("HMAC_256")
    agreement = user.create("ECC_NIST_P256", KeyUsage="KEY_AGREEMENT")
    external = user.create(Origin="EXTERNAL")
    point = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    user.create_alias("alias/users", aes)
    alice.create_alias("alias/alices", mine)
    given = grant(user, aes, "user:bob", ["Encrypt"])
    vendor = [
        ("encrypt", aes, b"x"), ("decrypt", blob), ("reencrypt", blob, mine), ("reencrypt", others, aes),
        ("data_key", aes), ("data_key_pair", aes, "ECC_NIST_P256"), ("enable", aes), ("disable", aes),
        ("schedule_deletion", aes), ("set_description", aes, "hers"), ("tag", aes, {"a": "b"}), ("untag", aes, ["a"]),
        ("create_alias", "alias/hers", aes), ("update_alias", "alias/users", mine), ("update_alias", "alias/alices", aes),
        ("delete_alias", "alias/users"), ("rotate", user.create()), ("set_rotation", user.create()),
        ("import_parameters", external), ("import_material", external, b"token", b"wrapped"),
        ("delete_material", external),
    ]
    for call in vendor:
        assert alice.refusal(*call) == DENIED, call
        assert alice.refusal(*call, dry_run=True) == DENIED, call
    assert alice.refusal("data_key", aes, 16, plaintext=False) == DENIED
    for name, members in [
        ("PutKeyPolicy", {"Policy": {"Statement": [allow("user:alice")]}}), ("GetKeyPolicy", {}), ("ListGrants", {}),
        ("CreateGrant", {"GranteePrincipal": "user:alice", "Operations": ["Encrypt"]}),
        ("RetireGrant", {"GrantId": given}), ("RevokeGrant", {"GrantId": given}),
    ]:
        assert alice.refusal("ask", name, KeyId=aes, **members) == DENIED, name
    standard = [
        ("standard", "encrypt", aes, 0, ck.CKM_KMS_ENVELOPE, b"x"), ("standard", "decrypt", aes, 0, ck.CKM_KMS_ENVELOPE, blob),
        ("standard", "sign", ec_key, 0, ck.CKM_ECDSA, bytes(32)),
        ("standard", "verify", ec_key, 1, ck.CKM_ECDSA, bytes(32), bytes(64)),
        ("standard", "encrypt", rsa, 1, ck.CKM_RSA_PKCS_OAEP, b"x"),
        ("standard", "sign", mac, 0, ck.CKM_SHA256_HMAC, b"x"),
        ("standard", "verify", mac, 0, ck.CKM_SHA256_HMAC, b"x", bytes(32)),
        ("agree", agreement, point), ("label", aes, "hers"),
    ]
    for call in standard:
        assert alice.refusal(*call) == DENIED_BY_STANDARD, call
    assert alice.refusal("attribute", aes, ck.CKA_KMS_GRANTS) == "CKR_ATTRIBUTE_SENSITIVE"
    # What is no secret may be read, and the owner's rights are untouched.
    assert alice.describe(aes)["Owner"] == "user"
    assert user.decrypt(blob) == b"secret"
    assert alice.encrypt(mine, b"x") and user.refusal("encrypt", mine, b"x") == DENIED


def test_a_policy_says_who_may_do_what(user, alice, bob):
    key = alice.create(Policy={"Statement": [allow("user:alice")]})
    put(alice, key, allow("user:alice"), allow("user:bob", actions=["Encrypt"], subset={"room": "4"}),
        allow("user", actions=["Decrypt", "DisableKey"]))
    assert bob.refusal("encrypt", key, b"x") == DENIED
    assert bob.refusal("encrypt", key, b"x", {"room": "5"}) == DENIED
    assert bob.refusal("encrypt", key, b"x", {"room": "4"}, dry_run=True) == "KMS_R_DRY_RUN"
    blob = bob.encrypt(key, b"x", {"room": "4", "row": "1"})
    assert bob.refusal("decrypt", blob, {"room": "4", "row": "1"}) == DENIED
    assert user.decrypt(blob, {"room": "4", "row": "1"}) == b"x"
    said = bob.says("decrypt", blob, {"room": "4", "row": "1"})
    assert key in said and "Decrypt" in said and "user:bob" in said
    user.disable(key)
    assert user.refusal("enable", key) == DENIED
    alice.enable(key)
    # The next policy takes the place of the one before at once, also of its principal's own rights.
    put(alice, key, allow("user", "user:bob"))
    assert alice.refusal("encrypt", key, b"x") == DENIED
    assert alice.refusal("ask", "PutKeyPolicy", KeyId=key, Policy={"Statement": [allow("user:alice")]}) == DENIED
    assert bob.ask("GetKeyPolicy", KeyId=key)["Policy"] == {"Statement": [allow("user", "user:bob")]}
    put(bob, key, allow("*", actions=["Encrypt", "PutKeyPolicy"]))
    assert alice.encrypt(key, b"x") and bob.refusal("data_key", key) == DENIED


def test_a_pairs_halves_have_one_policy(alice, bob):
    key = alice.create("ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
    put(alice, key, allow("user:alice"), allow("user:bob", actions=["Verify"]))
    signature = alice.standard("sign", key, 0, ck.CKM_ECDSA, bytes(32))
    assert bob.standard("verify", key, 1, ck.CKM_ECDSA, bytes(32), signature) is True
    assert bob.refusal("standard", "sign", key, 0, ck.CKM_ECDSA, bytes(32)) == DENIED_BY_STANDARD
    put(alice, key, allow("user:alice"), allow("user:bob", actions=["Sign"]))
    assert bob.refusal("standard", "verify", key, 1, ck.CKM_ECDSA, bytes(32), signature) == DENIED_BY_STANDARD
    assert bob.standard("sign", key, 0, ck.CKM_ECDSA, bytes(32))


@pytest.mark.parametrize(("policy", "says"), [
    ({"Statement": []}, "nobody could change"),
    ({"Statement": [allow("user:nobody")]}, "nobody could change"),
    ({"Statement": [allow("so")]}, "nobody could change"),
    ({"Statement": [allow("user", actions=["Encrypt"])]}, "nobody could change"),
    ({"Statement": [allow("user", equals={})]}, "nobody could change"),
    ({"Statement": [allow("user"), allow("user", actions=["Encrpyt"])]}, 'statement 2 of the policy: "Encrpyt"'),
    ({"Statement": [allow("alice")]}, "statement 1 of the policy"),
    ({"Statement": [{**allow("user"), "Effect": "Deny"}]}, '"Effect"'),
    ({"Statement": [allow("user", subset={"a": "b"}, equals={})]}, "Context"),
    ({"Statement": [allow("user")] * 1000}, "32 KiB"),
])
def test_what_is_no_policy(user, policy, says):
    key = user.create()
    for call, members in [("PutKeyPolicy", {"KeyId": key}), ("CreateKey", {})]:
        assert user.refusal("ask", call, Policy=policy, **members) == "KMS_R_MALFORMED_POLICY"
        assert says in user.says("ask", call, Policy=policy, **members)
    assert user.ask("GetKeyPolicy", KeyId=key)["IsDefault"] is True


def test_a_grant_allows_one_principal_some_operations(user, alice, bob):
    key = user.create()
    room = {"room": "4"}
    given = grant(user, key, "user:bob", ["Decrypt", "GenerateDataKey"], Constraints={"EncryptionContextEquals": room})
    blob = user.encrypt(key, b"x", room)
    assert bob.decrypt(blob, room) == b"x" and bob.data_key(key, 16, room)[0]
    assert bob.refusal("data_key", key, 16, {**room, "row": "1"}) == DENIED
    assert bob.refusal("data_key", key, 16, room, plaintext=False) == DENIED
    assert bob.refusal("encrypt", key, b"x", room) == DENIED and alice.refusal("decrypt", blob, room) == DENIED
    assert bob.refusal("decrypt", blob, room, dry_run=True) == "KMS_R_DRY_RUN"
    [listed] = user.ask("ListGrants", KeyId=key)["Grants"]
    assert len(given) == 36 and listed["GrantId"] == given and listed["GranteePrincipal"] == "user:bob"
    user.ask("RevokeGrant", KeyId=key, GrantId=given)
    assert bob.refusal("decrypt", blob, room) == DENIED
    assert user.refusal("ask", "RevokeGrant", KeyId=key, GrantId=given) == "KMS_R_NOT_FOUND"


def test_grants_are_made_once_and_tried(user, bob):
    key = user.create()
    blob = user.encrypt(key, b"x")
    assert user.refusal("ask", "CreateGrant", dry_run=True, KeyId=key, GranteePrincipal="user:bob",
                        Operations=["Decrypt"]) == "KMS_R_DRY_RUN"
    assert bob.refusal("decrypt", blob) == DENIED and user.ask("ListGrants", KeyId=key)["Grants"] == []
    once = grant(user, key, "user:bob", ["Decrypt"], Name="nightly")
    assert grant(user, key, "user:bob", ["Decrypt"], Name="nightly") == once
    assert len(user.ask("ListGrants", KeyId=key)["Grants"]) == 1
    for members in [{"Operations": ["PutKeyPolicy"]}, {"GranteePrincipal": "*"}, {"Name": "a b"}, {"Tokens": []},
                    {"Constraints": {}}, {"Operations": ["Sign"], "Constraints": {"EncryptionContextSubset": {}}}]:
        request = {"KeyId": key, "GranteePrincipal": "user:bob", "Operations": ["Decrypt"], **members}
        assert user.refusal("ask", "CreateGrant", request) == "KMS_R_INVALID_GRANT", members
    user.disable(key)
    assert user.refusal("ask", "CreateGrant", KeyId=key, GranteePrincipal="user:bob", Operations=["Decrypt"]) == "KMS_R_DISABLED"
    user.ask("RevokeGrant", KeyId=key, GrantId=once)


def test_grants_are_passed_on_and_retired(user, alice, bob):
    key, room = user.create(), {"room": "4"}
    within = {"EncryptionContextSubset": room}
    first = grant(user, key, "user:alice", ["Encrypt", "CreateGrant", "RetireGrant"], Constraints=within)
    asked = {"KeyId": key, "GranteePrincipal": "user:bob", "Operations": ["Encrypt"]}
    for more in [{}, {"Constraints": {"EncryptionContextSubset": {}}}, {"Operations": ["Decrypt"], "Constraints": within}]:
        assert alice.refusal("ask", "CreateGrant", {**asked, **more}) == DENIED, more
    second = alice.ask("CreateGrant", asked, RetiringPrincipal="user:alice",
                       Constraints={"EncryptionContextEquals": {**room, "row": "1"}})
    assert bob.encrypt(key, b"x", {**room, "row": "1"}) and bob.refusal("encrypt", key, b"x", room) == DENIED
    assert bob.refusal("ask", "RetireGrant", KeyId=key, GrantId=second) == DENIED
    assert alice.refusal("ask", "RevokeGrant", KeyId=key, GrantId=second) == DENIED
    alice.ask("RetireGrant", KeyId=key, GrantId=second)
    assert bob.refusal("encrypt", key, b"x", {**room, "row": "1"}) == DENIED
    alice.ask("RetireGrant", KeyId=key, GrantId=first)
    assert alice.refusal("encrypt", key, b"x", room) == DENIED
    assert user.ask("ListGrants", KeyId=key)["Grants"] == []


def test_the_owner_of_the_token_sees_who_may_do_what(so, user, alice, bob):
    key = alice.create()
    grant(alice, key, "user:bob", ["Encrypt"])
    alice.create_alias("alias/of-alices-key", key)
    assert so.ask("ListGrants", KeyId="alias/of-alices-key")["KeyId"] == key
    for owner in (so, user):
        assert owner.ask("GetKeyPolicy", KeyId=key)["Policy"] == {"Statement": [allow("user:alice")]}
        assert owner.ask("ListGrants", KeyId=key)["Grants"][0]["GranteePrincipal"] == "user:bob"
        assert owner.describe(key)["Owner"] == "user:alice"
    assert bob.refusal("ask", "GetKeyPolicy", KeyId=key) == DENIED
    put(alice, key, allow("user:alice"))
    for kind in (ck.CKA_KMS_POLICY, ck.CKA_KMS_GRANTS):
        assert bob.refusal("attribute", key, kind) == "CKR_ATTRIBUTE_SENSITIVE"
    # Nothing else: the SO uses no keys and changes none.
    for call in [("encrypt", key, b"x"), ("disable", key), ("schedule_deletion", key)]:
        assert so.refusal(*call) in (DENIED, "CKR_USER_NOT_LOGGED_IN"), call
    assert so.refusal("ask", "PutKeyPolicy", KeyId=key, Policy={"Statement": [allow("user")]}) in (
        DENIED, "CKR_USER_NOT_LOGGED_IN")
    assert so.objects(key) == [] and user.objects(key) != []


def test_a_removed_user_is_out(governing, user):
    governing.create_user("dora", "doras-pin-1")
    dora = process("dora", "doras-pin-1")
    key = dora.create()
    assert dora.encrypt(key, b"x")
    governing.remove_user("dora")
    assert dora.refusal("encrypt", key, b"x") == "CKR_USER_NOT_LOGGED_IN"
    assert dora.refusal("describe", key) == "CKR_USER_NOT_LOGGED_IN"
    dora.close()
    assert user.refusal("encrypt", key, b"x") == DENIED
    assert user.refusal("ask", "PutKeyPolicy", KeyId=user.create(), Policy={"Statement": [allow("user:dora")]}) == (
        "KMS_R_MALFORMED_POLICY")
    # The name is the principal: a new user of that name has what the old one had.
    governing.create_user("dora", "another-pin")
    again = process("dora", "another-pin")
    assert again.encrypt(key, b"x")
    again.close()


def test_the_operators_make_users_after_the_founding(module):
    ceremony = Ceremony(module, "policies-founded").found()
    for function, arguments in [("KMS_CreateUser", ["eve", "eves-pin-1"]), ("KMS_RemoveUser", ["eve"])]:
        with pytest.raises(Error, match="CKR_TOKEN_WRITE_PROTECTED.*(create|remove)-user"):
            ceremony.session.call(function, *sized([text.encode() for text in arguments]))
    ceremony.session.close()
