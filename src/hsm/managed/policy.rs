//! Who may do what with a managed key.

use super::attributes::CKA_KMS_OWNER;
use super::context::Context;
use super::states::Action;
use super::{Answer, Reason};
use crate::hsm::value::Attributes;

/// Whether a principal ("so", "user", "user:NAME"; "" is nobody) may do this with a managed key,
/// with this encryption context. KMS_R_ACCESS_DENIED.
pub(in crate::hsm) fn authorise(
    key: &Attributes,
    principal: &str,
    action: Action,
    _context: Option<&Context<'_>>,
) -> Answer<()> {
    let allowed = match action {
        Action::Describe
        | Action::GetPublicKey
        | Action::ListAliases
        | Action::ListTags
        | Action::GetRotationStatus
        | Action::ListRotations => !principal.is_empty(),
        // The token's owner always reads who may do what.
        Action::GetPolicy | Action::ListGrants if matches!(principal, "so" | "user") => true,
        _ => !principal.is_empty() && key.bytes(CKA_KMS_OWNER) == Some(principal.as_bytes()),
    };
    if allowed { Ok(()) } else { Err(Reason::AccessDenied.with("the key's policy does not allow it to this user")) }
}
