//! The states of a managed key, and what may be done with it in each: the one table, and the one
//! function that reads it.

use cryptoki_sys as ck;

use super::attributes::{
    CKA_KMS_DELETION_DATE, CKA_KMS_MANAGED, CKA_KMS_ORIGIN, CKA_KMS_STATE, CKA_KMS_USAGE, CKA_KMS_VALID_TO, KeyState,
    Origin, Usage,
};
use super::{Answer, Reason};
use crate::hsm::audit;
use crate::hsm::command::Function;
use crate::hsm::value::Attributes;

/// What is done with a managed key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) enum Action {
    Encrypt,
    Decrypt,
    /// Either side of a re-encryption.
    ReEncrypt,
    Sign,
    Verify,
    GenerateMac,
    VerifyMac,
    DeriveSharedSecret,
    GenerateDataKey,
    GenerateDataKeyWithoutPlaintext,
    GenerateDataKeyPair,
    GenerateDataKeyPairWithoutPlaintext,
    WrapKey,
    UnwrapKey,
    Replicate,
    MakePrimary,
    Enable,
    Disable,
    ScheduleDeletion,
    CancelDeletion,
    CreateGrant,
    GetPublicKey,
    GetParametersForImport,
    ImportMaterial,
    DeleteMaterial,
    SetRotation,
    Rotate,
    GetRotationStatus,
    ListRotations,
    Describe,
    GetPolicy,
    PutPolicy,
    ListAliases,
    ListGrants,
    ListTags,
    RetireGrant,
    RevokeGrant,
    DeleteAlias,
    /// The key that an alias stops to name.
    UpdateAliasFrom,
    CreateAlias,
    /// The key that an alias comes to name.
    UpdateAliasTo,
    Tag,
    Untag,
    SetDescription,
}

impl Action {
    /// Of a streaming operation of the standard; None for one without a key.
    pub(in crate::hsm) fn of(function: Function, key_usage: Usage) -> Option<Self> {
        let mac = key_usage == Usage::GenerateVerifyMac;
        Some(match function {
            Function::Digest => return None,
            Function::Encrypt => Self::Encrypt,
            Function::Decrypt => Self::Decrypt,
            Function::Sign if mac => Self::GenerateMac,
            Function::Verify if mac => Self::VerifyMac,
            Function::Sign | Function::SignRecover => Self::Sign,
            Function::Verify | Function::VerifyRecover => Self::Verify,
        })
    }

    /// The usage that a key must have been made for.
    fn usage(self) -> Option<Usage> {
        match self {
            Self::Encrypt
            | Self::Decrypt
            | Self::ReEncrypt
            | Self::GenerateDataKey
            | Self::GenerateDataKeyWithoutPlaintext
            | Self::GenerateDataKeyPair
            | Self::GenerateDataKeyPairWithoutPlaintext
            | Self::WrapKey
            | Self::UnwrapKey => Some(Usage::EncryptDecrypt),
            Self::Sign | Self::Verify => Some(Usage::SignVerify),
            Self::GenerateMac | Self::VerifyMac => Some(Usage::GenerateVerifyMac),
            Self::DeriveSharedSecret => Some(Usage::KeyAgreement),
            _ => None,
        }
    }

    /// Whether only a symmetric key can do it.
    fn needs_symmetric(self) -> bool {
        matches!(
            self,
            Self::GenerateDataKey
                | Self::GenerateDataKeyWithoutPlaintext
                | Self::GenerateDataKeyPair
                | Self::GenerateDataKeyPairWithoutPlaintext
                | Self::WrapKey
                | Self::UnwrapKey
        )
    }

    /// What a policy and the audit log call it.
    pub(in crate::hsm) fn named(self) -> audit::Action {
        match self {
            Self::Encrypt => audit::Action::Encrypt,
            Self::Decrypt => audit::Action::Decrypt,
            Self::ReEncrypt => audit::Action::ReEncrypt,
            Self::Sign => audit::Action::Sign,
            Self::Verify => audit::Action::Verify,
            Self::GenerateMac => audit::Action::GenerateMac,
            Self::VerifyMac => audit::Action::VerifyMac,
            Self::DeriveSharedSecret => audit::Action::DeriveSharedSecret,
            Self::GenerateDataKey => audit::Action::GenerateDataKey,
            Self::GenerateDataKeyWithoutPlaintext => audit::Action::GenerateDataKeyWithoutPlaintext,
            Self::GenerateDataKeyPair => audit::Action::GenerateDataKeyPair,
            Self::GenerateDataKeyPairWithoutPlaintext => audit::Action::GenerateDataKeyPairWithoutPlaintext,
            Self::WrapKey => audit::Action::WrapKey,
            Self::UnwrapKey => audit::Action::UnwrapKey,
            Self::Replicate => audit::Action::ReplicateKey,
            Self::MakePrimary => audit::Action::UpdatePrimaryRegion,
            Self::Enable => audit::Action::EnableKey,
            Self::Disable => audit::Action::DisableKey,
            Self::ScheduleDeletion => audit::Action::ScheduleKeyDeletion,
            Self::CancelDeletion => audit::Action::CancelKeyDeletion,
            Self::CreateGrant => audit::Action::CreateGrant,
            Self::GetPublicKey => audit::Action::GetPublicKey,
            Self::GetParametersForImport => audit::Action::GetParametersForImport,
            Self::ImportMaterial => audit::Action::ImportKeyMaterial,
            Self::DeleteMaterial => audit::Action::DeleteImportedKeyMaterial,
            Self::SetRotation => audit::Action::SetRotation,
            Self::Rotate => audit::Action::RotateKey,
            Self::GetRotationStatus => audit::Action::GetRotationStatus,
            Self::ListRotations => audit::Action::ListRotations,
            Self::Describe | Self::ListTags => audit::Action::DescribeKey,
            Self::GetPolicy => audit::Action::GetKeyPolicy,
            Self::PutPolicy => audit::Action::PutKeyPolicy,
            Self::ListAliases => audit::Action::ListAliases,
            Self::ListGrants => audit::Action::ListGrants,
            Self::RetireGrant => audit::Action::RetireGrant,
            Self::RevokeGrant => audit::Action::RevokeGrant,
            Self::DeleteAlias => audit::Action::DeleteAlias,
            Self::UpdateAliasFrom | Self::UpdateAliasTo => audit::Action::UpdateAlias,
            Self::CreateAlias => audit::Action::CreateAlias,
            Self::Tag => audit::Action::TagKey,
            Self::Untag => audit::Action::UntagKey,
            Self::SetDescription => audit::Action::UpdateDescription,
        }
    }

    fn row(self) -> Row {
        match self {
            Self::Encrypt
            | Self::Decrypt
            | Self::ReEncrypt
            | Self::Sign
            | Self::Verify
            | Self::GenerateMac
            | Self::VerifyMac
            | Self::DeriveSharedSecret
            | Self::GenerateDataKey
            | Self::GenerateDataKeyWithoutPlaintext
            | Self::GenerateDataKeyPair
            | Self::GenerateDataKeyPairWithoutPlaintext
            | Self::WrapKey
            | Self::UnwrapKey => Row::Use,
            Self::Replicate => Row::Replicate,
            Self::MakePrimary => Row::MakePrimary,
            Self::Enable | Self::Disable => Row::Enable,
            Self::ScheduleDeletion => Row::ScheduleDeletion,
            Self::CancelDeletion => Row::CancelDeletion,
            Self::CreateGrant => Row::CreateGrant,
            Self::GetPublicKey => Row::PublicKey,
            Self::GetParametersForImport => Row::ParametersForImport,
            Self::ImportMaterial => Row::ImportMaterial,
            Self::DeleteMaterial => Row::DeleteMaterial,
            Self::SetRotation => Row::SetRotation,
            Self::Rotate => Row::Rotate,
            Self::GetRotationStatus
            | Self::ListRotations
            | Self::Describe
            | Self::GetPolicy
            | Self::PutPolicy
            | Self::ListAliases
            | Self::ListGrants
            | Self::ListTags
            | Self::RetireGrant
            | Self::RevokeGrant
            | Self::DeleteAlias
            | Self::UpdateAliasFrom => Row::Look,
            Self::CreateAlias | Self::UpdateAliasTo | Self::Tag | Self::Untag | Self::SetDescription => Row::Name,
        }
    }
}

/// What the table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) enum Verdict {
    Yes,
    Disabled,
    State,
    Unsupported,
}

/// Actions that are allowed in the same states.
#[derive(Debug, Clone, Copy)]
enum Row {
    Use,
    Replicate,
    MakePrimary,
    Enable,
    ScheduleDeletion,
    CancelDeletion,
    CreateGrant,
    PublicKey,
    ParametersForImport,
    ImportMaterial,
    DeleteMaterial,
    SetRotation,
    Rotate,
    Look,
    Name,
}

const YES: Verdict = Verdict::Yes;
const DISABLED: Verdict = Verdict::Disabled;
const STATE: Verdict = Verdict::State;
const UNSUPPORTED: Verdict = Verdict::Unsupported;

/// By [`Row`]; the columns are Enabled, Disabled, both that wait for deletion, PendingImport,
/// Creating, Updating.
const TABLE: [[Verdict; 6]; Row::Name as usize + 1] = [
    [YES, DISABLED, STATE, STATE, STATE, YES],       // Use
    [YES, DISABLED, STATE, STATE, STATE, STATE],     // Replicate
    [YES, DISABLED, STATE, STATE, STATE, YES],       // MakePrimary
    [YES, YES, STATE, STATE, STATE, STATE],          // Enable
    [YES, YES, STATE, YES, YES, STATE],              // ScheduleDeletion
    [STATE, STATE, YES, STATE, STATE, STATE],        // CancelDeletion
    [YES, DISABLED, STATE, STATE, STATE, YES],       // CreateGrant
    [YES, YES, STATE, YES, STATE, YES],              // PublicKey
    [YES, YES, STATE, YES, STATE, STATE],            // ParametersForImport
    [YES, YES, STATE, YES, STATE, YES],              // ImportMaterial
    [YES, YES, YES, YES, STATE, STATE],              // DeleteMaterial
    [YES, DISABLED, STATE, UNSUPPORTED, STATE, YES], // SetRotation
    [YES, DISABLED, STATE, STATE, STATE, YES],       // Rotate
    [YES, YES, YES, YES, YES, YES],                  // Look
    [YES, YES, STATE, YES, YES, YES],                // Name
];

fn column(state: KeyState) -> usize {
    match state {
        KeyState::Enabled => 0,
        KeyState::Disabled => 1,
        KeyState::PendingDeletion | KeyState::PendingReplicaDeletion => 2,
        KeyState::PendingImport => 3,
        KeyState::Creating => 4,
        KeyState::Updating => 5,
    }
}

/// The table's cell.
pub(in crate::hsm) fn verdict(action: Action, state: KeyState) -> Verdict {
    TABLE[action.row() as usize][column(state)]
}

/// The attributes that the state at a time follows from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    /// As it was last decided.
    pub(super) state: KeyState,
    pub(super) origin: Origin,
    /// Of imported material: None while there is none, 0 if it does not expire.
    pub(super) valid_to: Option<u64>,
    pub(super) deletion_date: Option<u64>,
}

impl Facts {
    fn of(attributes: &Attributes) -> Answer<Self> {
        let state = attributes.ulong(CKA_KMS_STATE).and_then(KeyState::from_code);
        let origin = attributes.ulong(CKA_KMS_ORIGIN).and_then(Origin::from_code);
        let (Some(state), Some(origin)) = (state, origin) else {
            return Err(Reason::Damaged.with("a managed key without a state or origin"));
        };
        Ok(Self {
            state,
            origin,
            valid_to: attributes.ulong(CKA_KMS_VALID_TO),
            deletion_date: attributes.ulong(CKA_KMS_DELETION_DATE),
        })
    }

    /// Whether the material is there to be used. Imported material ends with its validity, whether
    /// or not somebody has deleted it by then.
    pub(super) fn has_material(&self, now: u64) -> bool {
        match (self.origin, self.valid_to) {
            (Origin::Hsm, _) | (Origin::External, Some(0)) => true,
            (Origin::External, Some(valid_to)) => now < valid_to,
            (Origin::External, None) => false,
        }
    }

    /// The state at a time. PendingImport is stored by nobody: it is how a key without its imported
    /// material appears.
    pub(super) fn state_at(&self, now: u64) -> KeyState {
        match self.state {
            KeyState::Enabled | KeyState::Disabled | KeyState::Updating if !self.has_material(now) => {
                KeyState::PendingImport
            }
            state => state,
        }
    }

    /// Whether the waiting period is over. A key that waits for nothing known is over, too.
    pub(super) fn is_deletion_due(&self, now: u64) -> bool {
        self.state == KeyState::PendingDeletion && self.deletion_date.is_none_or(|date| date <= now)
    }

    pub(super) fn check(&self, action: Action, now: u64) -> Answer<()> {
        if self.is_deletion_due(now) && action != Action::Describe {
            return Err(Reason::InvalidState.with("the key's waiting period is over: it is about to be deleted"));
        }
        let state = self.state_at(now);
        match verdict(action, state) {
            Verdict::Yes => Ok(()),
            Verdict::Disabled => Err(Reason::Disabled.with("the key is disabled")),
            Verdict::State => Err(Reason::InvalidState.with(format!("the key is in the state {}", state.name()))),
            Verdict::Unsupported => {
                Err(Reason::Unsupported.with(format!("not supported by a key in the state {}", state.name())))
            }
        }
    }
}

/// Whether an action with a key is allowed now (seconds since 1970), by its state, then by its
/// usage. An ordinary key has neither.
pub(in crate::hsm) fn check(key: &Attributes, action: Action, now: u64) -> Answer<()> {
    if !key.flag(CKA_KMS_MANAGED) {
        return Ok(());
    }
    Facts::of(key)?.check(action, now)?;
    let Some(needed) = action.usage() else { return Ok(()) };
    if key.ulong(CKA_KMS_USAGE) != Some(needed.code()) {
        return Err(Reason::InvalidKeyUsage.with(format!("the key is not for {}", needed.name())));
    }
    if action.needs_symmetric() && key.ulong(ck::CKA_CLASS) != Some(ck::CKO_SECRET_KEY) {
        return Err(Reason::InvalidKeyUsage.with("only a symmetric key protects data keys and wraps"));
    }
    Ok(())
}

/// The state that CKA_KMS_STATE shows at a time; None for an ordinary key.
pub(in crate::hsm) fn state_at(key: &Attributes, now: u64) -> Answer<Option<KeyState>> {
    if !key.flag(CKA_KMS_MANAGED) {
        return Ok(None);
    }
    Facts::of(key).map(|facts| Some(facts.state_at(now)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::value::Value;

    /// The specification.
    const SPECIFIED: &str = "\
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
| update alias from | yes | yes | yes | yes | yes | yes |
| update alias to | yes | yes | state | yes | yes | yes |";

    const COLUMNS: [&[KeyState]; 6] = [
        &[KeyState::Enabled],
        &[KeyState::Disabled],
        &[KeyState::PendingDeletion, KeyState::PendingReplicaDeletion],
        &[KeyState::PendingImport],
        &[KeyState::Creating],
        &[KeyState::Updating],
    ];

    fn named(name: &str) -> &'static [Action] {
        use Action::*;
        match name {
            "encrypt" => &[Encrypt, ReEncrypt],
            "decrypt" => &[Decrypt, ReEncrypt],
            "sign" => &[Sign],
            "verify" => &[Verify],
            "MAC" => &[GenerateMac, VerifyMac],
            "agree" => &[DeriveSharedSecret],
            "data keys" => &[
                GenerateDataKey,
                GenerateDataKeyWithoutPlaintext,
                GenerateDataKeyPair,
                GenerateDataKeyPairWithoutPlaintext,
                WrapKey,
                UnwrapKey,
            ],
            "replicate" => &[Replicate],
            "make primary" => &[MakePrimary],
            "enable" => &[Enable],
            "disable" => &[Disable],
            "schedule deletion" => &[ScheduleDeletion],
            "cancel deletion" => &[CancelDeletion],
            "create grant" => &[CreateGrant],
            "public key" => &[GetPublicKey],
            "parameters for import" => &[GetParametersForImport],
            "import material" => &[ImportMaterial],
            "delete imported material" => &[DeleteMaterial],
            "set rotation" => &[SetRotation],
            "rotate" => &[Rotate],
            "rotation status" => &[GetRotationStatus],
            "list rotations" => &[ListRotations],
            "describe" => &[Describe],
            "policies" => &[GetPolicy, PutPolicy],
            "list" => &[ListAliases, ListGrants, ListTags],
            "retire" => &[RetireGrant],
            "revoke" => &[RevokeGrant],
            "delete alias" => &[DeleteAlias],
            "update alias from" => &[UpdateAliasFrom],
            "create alias" => &[CreateAlias],
            "update alias to" => &[UpdateAliasTo],
            "tag" => &[Tag, Untag],
            "set description" => &[SetDescription],
            _ => panic!("{name}"),
        }
    }

    fn in_state(state: KeyState) -> Facts {
        let date = (state == KeyState::PendingDeletion).then_some(100);
        Facts { state, origin: Origin::Hsm, valid_to: None, deletion_date: date }
    }

    #[test]
    fn the_table_is_the_specification_cell_by_cell() {
        let mut cells = 0;
        for line in SPECIFIED.lines() {
            let mut fields = line.trim_matches('|').split('|').map(str::trim);
            let actions: Vec<Action> =
                fields.next().unwrap().split(", ").flat_map(|name| named(name).iter().copied()).collect();
            for (states, said) in COLUMNS.iter().zip(fields) {
                let (expected, reason) = match said {
                    "yes" => (Verdict::Yes, None),
                    "disabled" => (Verdict::Disabled, Some(Reason::Disabled)),
                    "state" => (Verdict::State, Some(Reason::InvalidState)),
                    "unsupported" => (Verdict::Unsupported, Some(Reason::Unsupported)),
                    _ => panic!("{said}"),
                };
                for (action, state) in actions.iter().flat_map(|action| states.iter().map(move |s| (*action, *s))) {
                    assert_eq!(verdict(action, state), expected, "{action:?} in {state:?}");
                    let checked = in_state(state).check(action, 99).err().map(|refused| refused.reason());
                    assert_eq!(checked, reason, "{action:?} in {state:?}");
                    cells += 1;
                }
            }
        }
        assert_eq!(cells, (35 + 10) * 7, "every action of the specification in every state");
    }

    #[test]
    fn what_time_changes() {
        let imported = |state, valid_to| Facts { origin: Origin::External, valid_to, ..in_state(state) };
        for state in [KeyState::Enabled, KeyState::Disabled, KeyState::Updating] {
            assert_eq!(imported(state, Some(50)).state_at(49), state);
            assert_eq!(imported(state, Some(50)).state_at(50), KeyState::PendingImport);
            assert_eq!(imported(state, Some(0)).state_at(u64::MAX), state);
            assert_eq!(imported(state, None).state_at(0), KeyState::PendingImport);
        }
        assert_eq!(imported(KeyState::PendingDeletion, None).state_at(0), KeyState::PendingDeletion);
        let waiting = in_state(KeyState::PendingDeletion);
        assert!(waiting.check(Action::CancelDeletion, 99).is_ok());
        for action in [Action::CancelDeletion, Action::ListTags, Action::DeleteMaterial, Action::Decrypt] {
            assert_eq!(waiting.check(action, 100).unwrap_err().reason(), Reason::InvalidState, "{action:?}");
        }
        assert!(waiting.check(Action::Describe, 100).is_ok());
        assert!(Facts { deletion_date: None, ..waiting }.is_deletion_due(0));
    }

    #[test]
    fn a_key_does_what_it_was_made_for() {
        let key = |class, usage: Usage| -> Attributes {
            [
                (ck::CKA_CLASS, Value::Ulong(class)),
                (CKA_KMS_MANAGED, Value::Bool(true)),
                (CKA_KMS_STATE, Value::Ulong(KeyState::Enabled.code())),
                (CKA_KMS_ORIGIN, Value::Ulong(Origin::Hsm.code())),
                (CKA_KMS_USAGE, Value::Ulong(usage.code())),
            ]
            .into_iter()
            .collect()
        };
        let reason = |key: &Attributes, action| check(key, action, 0).err().map(|refused| refused.reason());
        let aes = key(ck::CKO_SECRET_KEY, Usage::EncryptDecrypt);
        let rsa = key(ck::CKO_PRIVATE_KEY, Usage::EncryptDecrypt);
        let mac = key(ck::CKO_SECRET_KEY, Usage::GenerateVerifyMac);
        assert_eq!(reason(&aes, Action::GenerateDataKey), None);
        assert_eq!(reason(&rsa, Action::Decrypt), None);
        assert_eq!(reason(&rsa, Action::GenerateDataKey), Some(Reason::InvalidKeyUsage));
        assert_eq!(reason(&mac, Action::Encrypt), Some(Reason::InvalidKeyUsage));
        assert_eq!(reason(&mac, Action::Sign), Some(Reason::InvalidKeyUsage));
        assert_eq!(Action::of(Function::Sign, Usage::GenerateVerifyMac), Some(Action::GenerateMac));
        let mut torn = aes;
        torn.remove(CKA_KMS_STATE);
        assert_eq!(reason(&torn, Action::Describe), Some(Reason::Damaged));
        assert_eq!(reason(&Attributes::new(), Action::Sign), None);
    }
}
