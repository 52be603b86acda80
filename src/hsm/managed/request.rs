//! What a request about a managed key says: JSON in the words of the model system. A member that
//! a request does not know is refused, and so is a value of another form.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::attributes::{Origin, Usage};
use super::{Answer, Reason};

/// CKR_ARGUMENTS_BAD for what is no such request.
pub(in crate::hsm) fn parse<'a, R: Deserialize<'a>>(json: &'a str) -> Answer<R> {
    serde_json::from_str(json).map_err(|error| Reason::Arguments.with(format!("the request is not valid: {error}")))
}

macro_rules! requests {
    ($($(#[doc = $doc:literal])* $name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            $(#[doc = $doc])*
            #[derive(Debug, Deserialize)]
            #[serde(deny_unknown_fields, rename_all = "PascalCase")]
            pub(in crate::hsm) struct $name {
                /// The host has found the key.
                #[serde(default, rename = "KeyId")]
                _key: IgnoredAny,
                $($(#[$attribute])* pub(in crate::hsm) $field: $type,)*
            }
        )*
    };
}

requests! {
    /// Names a key and nothing else.
    OfKey {}
    ScheduleKeyDeletion {
        pending_window_in_days: Option<u64>,
    }
    UpdateDescription {
        description: String,
    }
    TagKey {
        tags: Vec<Tag>,
    }
    UntagKey {
        tag_keys: Vec<String>,
    }
    PutKeyPolicy {
        policy: serde_json::Value,
    }
    OfGrant {
        grant_id: String,
    }
    ReplicateKey {
        replica_region: String,
        #[serde(default)]
        withdraw: bool,
    }
    UpdatePrimaryRegion {
        primary_region: String,
    }
    SetRotation {
        enabled: bool,
        rotation_period_in_days: Option<u64>,
    }
}

/// Of an alias that comes to name a key, which the host has found, or ceases to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(in crate::hsm) struct OfAlias {
    pub(in crate::hsm) alias_name: String,
    #[serde(default, rename = "TargetKeyId")]
    _target: IgnoredAny,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "PascalCase")]
pub(in crate::hsm) struct CreateKey {
    pub(in crate::hsm) key_spec: Option<String>,
    key_usage: Option<String>,
    origin: Option<String>,
    pub(in crate::hsm) multi_region: bool,
    pub(in crate::hsm) replicate_imported_material: bool,
    pub(in crate::hsm) description: String,
    pub(in crate::hsm) label: String,
    pub(in crate::hsm) tags: Vec<Tag>,
    pub(in crate::hsm) standard_mechanisms: bool,
    pub(in crate::hsm) policy: Option<serde_json::Value>,
    pub(in crate::hsm) dual_control: Option<serde_json::Value>,
}

impl CreateKey {
    pub(in crate::hsm) fn usage(&self) -> Answer<Option<Usage>> {
        let named = |name: &String| Usage::from_name(name).ok_or_else(|| Reason::Arguments.with("no such KeyUsage"));
        self.key_usage.as_ref().map(named).transpose()
    }

    pub(in crate::hsm) fn origin(&self) -> Answer<Origin> {
        let named = |name: &String| Origin::from_name(name).ok_or_else(|| Reason::Arguments.with("no such Origin"));
        self.origin.as_ref().map_or(Ok(Origin::Hsm), named)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(in crate::hsm) struct Tag {
    pub(in crate::hsm) tag_key: String,
    #[serde(default)]
    pub(in crate::hsm) tag_value: String,
}

/// Names and values, as [`Managed::tag`](super::metadata::Managed::tag) takes them.
pub(in crate::hsm) fn tags(given: &[Tag]) -> Vec<(&str, &str)> {
    given.iter().map(|tag| (tag.tag_key.as_str(), tag.tag_value.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_what_it_may_say_and_nothing_else() {
        let schedule: ScheduleKeyDeletion = parse(r#"{"KeyId":"a","PendingWindowInDays":7}"#).unwrap();
        assert_eq!(schedule.pending_window_in_days, Some(7));
        let create: CreateKey = parse(r#"{"Tags":[{"TagKey":"a"}],"Origin":"EXTERNAL"}"#).unwrap();
        assert_eq!((tags(&create.tags), create.origin()), (vec![("a", "")], Ok(Origin::External)));
        assert!(parse::<CreateKey>(r#"{"KeyUsage":"SIGN"}"#).unwrap().usage().is_err());
        for json in
            ["", "[]", r#"{"KeyId":"a","Days":7}"#, r#"{"PendingWindowInDays":-7}"#, r#"{"PendingWindowInDays":"7"}"#]
        {
            assert_eq!(parse::<ScheduleKeyDeletion>(json).unwrap_err().reason(), Reason::Arguments, "{json}");
        }
        assert!(parse::<CreateKey>(r#"{"KeyId":"a"}"#).is_err(), "a key's id is not chosen");
    }
}
