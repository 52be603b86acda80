//! What is explored, and what each rule is needed for.

use stateright::{Checker, HasDiscoveries, Model};

use super::regions::Regions;
use super::state::{A, B, C, Left, REGIONS, Region, Role, Rule, State};

const NOTHING: Left = Left {
    authorisations: 0,
    exchanges: 0,
    rotations: 0,
    give_ups: 0,
    deletions: 0,
    handovers: 0,
    promotions: 0,
    stops: 0,
};

fn encrypts(state: &State, region: Region, version: u8) -> bool {
    state.in_use(region).is_some_and(|record| record.version == version)
}

fn leads(state: &State, region: Region) -> bool {
    state.entries(region).is_some()
}

/// One replica joins while the primary rotates and gives it up.
const JOINING: Regions = Regions {
    off: None,
    left: Left { authorisations: 2, exchanges: 2, rotations: 2, give_ups: 1, stops: 1, ..NOTHING },
    replicas: &[],
    hostile: false,
    goals: &[
        ("a replica joins before a rotation", |_, state| encrypts(state, B, 2)),
        ("a replica joins again", |_, state| {
            state.left.give_ups == 0 && encrypts(state, B, 1) && encrypts(state, A, 1)
        }),
        ("a restart is survived", |_, state| state.left.stops == 0 && encrypts(state, B, 1)),
    ],
};

/// Two replicas, rotation, one of them given up.
const ROTATING: Regions = Regions {
    off: None,
    left: Left { exchanges: 3, rotations: 2, give_ups: 1, ..NOTHING },
    replicas: &[B, C],
    hostile: false,
    goals: &[("all rotate", |_, state| REGIONS.iter().all(|region| encrypts(state, *region, 2)))],
};

/// A replica is deleted and made anew.
const LEAVING: Regions = Regions {
    off: None,
    left: Left { authorisations: 1, exchanges: 2, rotations: 1, deletions: 2, ..NOTHING },
    replicas: &[B],
    hostile: false,
    goals: &[("a replica is made anew", |_, state| {
        state.records[B].as_ref().is_some_and(|record| record.incarnation() == Some(34)) && encrypts(state, B, 1)
    })],
};

/// The primary moves, and the new one rotates.
const MOVING: Regions = Regions {
    off: None,
    left: Left { exchanges: 2, rotations: 1, handovers: 1, ..NOTHING },
    replicas: &[B, C],
    hostile: false,
    goals: &[("a replica becomes the primary and rotates", |_, state| {
        leads(state, B) && !leads(state, A) && REGIONS.iter().all(|region| encrypts(state, *region, 2))
    })],
};

/// The primary moves and comes back, with a shipment of the time before, and a replica that goes.
const RETURNING: Regions = Regions {
    off: None,
    left: Left { exchanges: 1, deletions: 1, handovers: 2, ..NOTHING },
    replicas: &[B, C],
    hostile: false,
    goals: &[("the primary comes back", |_, state| {
        leads(state, A) && REGIONS.iter().all(|r| state.records[*r].as_ref().is_some_and(|it| it.term == 3))
    })],
};

/// Two Regions hand the key to and fro.
const SWINGING: Regions = Regions {
    off: None,
    left: Left { handovers: 3, exchanges: 1, ..NOTHING },
    replicas: &[B],
    hostile: false,
    goals: &[("the primary moves three times", |_, state| {
        state.records.iter().flatten().filter(|record| record.term == 4).count() == 2
    })],
};

/// The primary moves while replicas join, go and are given up.
const UNSTEADY: Regions = Regions {
    off: None,
    left: Left { authorisations: 1, exchanges: 1, deletions: 1, handovers: 1, give_ups: 1, ..NOTHING },
    replicas: &[B, C],
    hostile: false,
    goals: &[("a tombstone finds the new primary", |_, state| {
        leads(state, B)
            && state.records[C].is_none()
            && state.tombstones[C].is_none()
            && state.entries(B).is_some_and(|entries| entries[C].is_none())
    })],
};

/// Two Regions, and a third that lies.
const HOSTILE: Regions = Regions {
    off: None,
    left: Left { exchanges: 1, rotations: 1, handovers: 1, ..NOTHING },
    replicas: &[B],
    hostile: true,
    goals: &[("the primary moves", |_, state| leads(state, B) && !leads(state, A))],
};

/// The primary is lost, and comes back.
const LOSING: Regions = Regions {
    off: None,
    left: Left { authorisations: 1, exchanges: 2, rotations: 3, promotions: 1, ..NOTHING },
    replicas: &[B],
    hostile: false,
    goals: &[("the lost primary follows and has what was made since", |_, state| {
        leads(state, B) && !leads(state, A) && encrypts(state, A, 3) && encrypts(state, B, 3)
    })],
};

/// A replica is given up and promoted: both Regions have made a version 2.
const DIVIDED: Regions = Regions {
    off: None,
    left: Left { authorisations: 1, exchanges: 1, rotations: 2, give_ups: 1, promotions: 1, ..NOTHING },
    replicas: &[B],
    hostile: false,
    goals: &[],
};

/// Two Regions become the primary at once, one of them by quorum.
const SPLITTING: Regions = Regions {
    off: None,
    left: Left { authorisations: 1, exchanges: 1, handovers: 1, promotions: 1, ..NOTHING },
    replicas: &[B, C],
    hostile: false,
    goals: &[("the lost primary finds itself outdated", |_, state| {
        REGIONS.iter().any(|region| {
            state.records[*region].as_ref().is_some_and(|it| matches!(it.role, Role::Primary { outdated: true, .. }))
        })
    })],
};

#[test]
fn no_order_of_messages_breaks_a_promise() {
    let cases =
        [JOINING, ROTATING, LEAVING, MOVING, RETURNING, SWINGING, UNSTEADY, HOSTILE, LOSING, DIVIDED, SPLITTING];
    for case in cases {
        let checker = case.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        checker.assert_properties();
        assert!(checker.is_done());
    }
}

#[test]
fn each_rule_is_needed() {
    let needed = [
        (Rule::Barrier, JOINING),
        (Rule::Creating, JOINING),
        (Rule::Authorised, JOINING),
        (Rule::Remembered, LEAVING),
        (Rule::NotOvertaken, JOINING),
        (Rule::SameEntry, RETURNING),
        (Rule::ActivateIncarnation, LEAVING),
        (Rule::DeletedIncarnation, LEAVING),
        (Rule::ActivateUp, JOINING),
        (Rule::RecordedPrimary, MOVING),
        (Rule::ShipmentTerm, RETURNING),
        (Rule::ShipmentVersion, JOINING),
        (Rule::SameVersion, DIVIDED),
        (Rule::ShipAll, LOSING),
        (Rule::Tombstone, LEAVING),
        (Rule::TombstoneTold, UNSTEADY),
        (Rule::Frozen, UNSTEADY),
        (Rule::HandoverIncarnation, UNSTEADY),
        (Rule::HandoverTerm, RETURNING),
        (Rule::HandoverSender, HOSTILE),
        (Rule::HandoverOnce, RETURNING),
        (Rule::KeptWhileMoving, UNSTEADY),
        (Rule::TakenTerm, SWINGING),
        (Rule::OwnTerm, SPLITTING),
        (Rule::Outdated, LOSING),
        (Rule::OutdatedListed, HOSTILE),
    ];
    for (rule, case) in needed {
        let case = Regions { off: Some(rule), goals: &[], ..case };
        let checker = case.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        assert!(checker.discovery("every promise is kept").is_some(), "nothing needs {rule:?}");
    }
}
