//! What a statement of a policy, or a grant, demands of the encryption context.

use serde_json::{Map, Value, json};

use super::context::Context;
use crate::error::Result;
use crate::hsm::domain::cbor::{Decoded, Decoder, Encoder, Malformed};

/// Without it anything is allowed. It holds of no call that has no encryption context at all, such
/// as a signature; an empty one is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) enum Condition<'a> {
    /// The context is exactly this one.
    Equals(Context<'a>),
    /// All pairs of this one are among those of the context.
    Subset(Context<'a>),
}

impl<'a> Condition<'a> {
    pub(super) fn holds(&self, context: Option<&Context<'_>>) -> bool {
        match (self, context) {
            (_, None) => false,
            (Self::Equals(wanted), Some(context)) => wanted.encoded() == context.encoded(),
            (Self::Subset(wanted), Some(context)) => is_within(wanted, context),
        }
    }

    /// Whether each context of which this holds is one of which the other holds.
    pub(super) fn implies(&self, other: &Condition<'_>) -> bool {
        match (self, other) {
            (Self::Equals(mine) | Self::Subset(mine), Condition::Subset(theirs)) => is_within(theirs, mine),
            (Self::Equals(mine), Condition::Equals(theirs)) => mine.encoded() == theirs.encoded(),
            (Self::Subset(_), Condition::Equals(_)) => false,
        }
    }

    pub(super) fn context(&self) -> &Context<'a> {
        let (Self::Equals(context) | Self::Subset(context)) = self;
        context
    }

    /// `{equals: {…}}` or `{subset: {…}}` with the names that the caller's form has for the two. An
    /// error is a sentence without a subject.
    pub(super) fn from_json(value: &Value, equals: &str, subset: &str) -> std::result::Result<Self, String> {
        let wrong = || format!("must be {{\"{equals}\": {{…}}}} or {{\"{subset}\": {{…}}}}");
        let members: Vec<_> = value.as_object().into_iter().flatten().collect();
        let [(name, given)] = members[..] else { return Err(wrong()) };
        let context = Context::from_object(given.as_object().ok_or_else(wrong)?)
            .map_err(|error| error.detail().unwrap_or_default().to_owned())?;
        match name.as_str() {
            name if name == equals => Ok(Self::Equals(context)),
            name if name == subset => Ok(Self::Subset(context)),
            _ => Err(wrong()),
        }
    }

    pub(super) fn to_json(&self, equals: &str, subset: &str) -> Value {
        let pairs: Map<String, Value> =
            self.context().pairs().map(|(name, value)| (name.to_owned(), value.into())).collect();
        match self {
            Self::Equals(_) => json!({ equals: pairs }),
            Self::Subset(_) => json!({ subset: pairs }),
        }
    }

    pub(super) fn encode(&self, e: &mut Encoder) {
        let kind = match self {
            Self::Equals(_) => 0,
            Self::Subset(_) => 1,
        };
        e.array(2).uint(kind).raw(self.context().encoded());
    }

    pub(super) fn decode(d: &mut Decoder<'a>) -> Decoded<Self> {
        d.array_of(2)?;
        let kind = d.uint()?;
        let context = Context::read(d)?;
        match kind {
            0 => Ok(Self::Equals(context)),
            1 => Ok(Self::Subset(context)),
            _ => Err(Malformed("an unknown condition")),
        }
    }
}

fn is_within(wanted: &Context<'_>, context: &Context<'_>) -> bool {
    // Both are in the same order.
    let mut given = context.pairs();
    wanted.pairs().all(|pair| given.any(|given| given == pair))
}

impl Context<'static> {
    /// From the members of a JSON object, which are to be strings.
    pub(super) fn from_object(object: &Map<String, Value>) -> Result<Self> {
        let pairs: Option<Vec<(&str, &str)>> =
            object.iter().map(|(name, value)| Some((name.as_str(), value.as_str()?))).collect();
        Self::from_pairs(pairs.ok_or_else(|| super::context::bad("a value that is no string"))?)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::hsm::managed) fn contexts() -> impl Strategy<Value = Context<'static>> {
        proptest::collection::btree_map("[ab]{1,2}", "[xy]?", 0..4)
            .prop_map(|pairs| Context::from_pairs(pairs.iter().map(|(n, v)| (n.as_str(), v.as_str()))).unwrap())
    }

    pub(in crate::hsm::managed) fn conditions() -> impl Strategy<Value = Condition<'static>> {
        (contexts(), any::<bool>())
            .prop_map(|(context, equals)| if equals { Condition::Equals(context) } else { Condition::Subset(context) })
    }

    proptest! {
        #[test]
        fn what_implies_another_holds_less_often(one in conditions(), other in conditions(), context in contexts()) {
            if one.implies(&other) && one.holds(Some(&context)) {
                prop_assert!(other.holds(Some(&context)));
            }
            prop_assert!(one.implies(&one));
            prop_assert!(!one.holds(None));
            let pairs = |context: &Context<'_>| -> std::collections::BTreeSet<(String, String)> {
                context.pairs().map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
            };
            let (wanted, given) = (pairs(one.context()), pairs(&context));
            let expected = match &one {
                Condition::Equals(_) => wanted == given,
                Condition::Subset(_) => wanted.is_subset(&given),
            };
            prop_assert_eq!(one.holds(Some(&context)), expected);
        }

        #[test]
        fn a_condition_survives_both_forms(condition in conditions()) {
            let mut e = Encoder::new();
            condition.encode(&mut e);
            let encoded = e.finish();
            prop_assert_eq!(Condition::decode(&mut Decoder::new(&encoded)).unwrap(), condition.clone());
            let json = condition.to_json("E", "S");
            prop_assert_eq!(Condition::from_json(&json, "E", "S").unwrap(), condition);
        }
    }
}
