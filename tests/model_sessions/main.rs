//! Explicit-state models of the sessions between hosts and HSMs.
//!
//! `handshake` is the negotiation of session keys and the making of connections, while HSM and host
//! are expelled; `link` is frames, requests and their repetition; `fresh` is whether what a request
//! shows is new enough; `login` is tickets and session objects. Each check of the module is a switch.
//! With all of them on, no state that an attacker can reach breaks a promise; with any one of them
//! off, the checker finds an attack.
//!
//! An HSM that is a member knows the domain keys, so nothing is promised against it until it is
//! expelled. Checks that others imply are left out: an expulsion changes the active domain key, so
//! that whatever is under the active key was issued by a member, and a derivation from the session
//! key implies whose it is.
//!
//! `CONCLAVE_MODEL=large` explores further.

mod fresh;
mod handshake;
mod link;
mod login;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, HasDiscoveries, Model};

/// A bound of what is explored, or a larger one when that is asked for.
fn bound(usual: usize, large: usize) -> usize {
    let asked = std::env::var("CONCLAVE_MODEL").is_ok_and(|value| value == "large");
    if asked { large } else { usual }
}

/// The name of the property of all models: no state has a broken promise.
const KEPT: &str = "every promise is kept";

/// A state that tells which promises were broken on the way to it.
trait Judged {
    type Broken: Ord + Copy + Debug;
    fn broken(&self) -> &BTreeSet<Self::Broken>;
}

/// What can be explored.
trait Explored:
    Model<
        State: Judged + Clone + Debug + PartialEq + Hash + Send + Sync,
        Action: Clone + Debug + PartialEq + Send + Sync,
    > + Send
    + Sync
    + 'static
{
}

impl<M> Explored for M where
    M: Model<
            State: Judged + Clone + Debug + PartialEq + Hash + Send + Sync,
            Action: Clone + Debug + PartialEq + Send + Sync,
        > + Send
        + Sync
        + 'static
{
}

/// What the shortest attack breaks, if there is one.
fn attack<M: Explored>(model: M) -> BTreeSet<<M::State as Judged>::Broken> {
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    checker.discovery(KEPT).map(|path| path.last_state().broken().clone()).unwrap_or_default()
}

/// All states of a case keep all promises, and some reach each of its goals.
fn holds<M: Explored>(model: M) {
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    checker.assert_properties();
    assert!(checker.is_done());
}

/// Each list of checks is needed in its case, and each check of a list suffices without the others.
fn needed<M, C, P>(lists: &[(&[C], P)], model: impl Fn(&P, Vec<C>) -> M)
where
    M: Explored,
    C: Copy + PartialEq + Debug,
{
    for (checks, case) in lists {
        assert_ne!(attack(model(case, checks.to_vec())), BTreeSet::new(), "nothing needs {checks:?}");
        for spared in checks.iter().filter(|_| checks.len() > 1) {
            let others = checks.iter().copied().filter(|check| check != spared).collect();
            assert_eq!(attack(model(case, others)), BTreeSet::new(), "{spared:?} does not suffice");
        }
    }
}
