//! The rows of `docs/design/synchronous.md` 3: what each run explores, and what it must find.

use super::rules::{Change, Config, Faults, Start};
use super::servers::Violation;

/// A row of the table.
pub(super) struct Row {
    pub(super) id: &'static str,
    pub(super) about: String,
    pub(super) config: Config,
    /// The violation, if there must be one.
    pub(super) expected: Option<Violation>,
    /// Whether the states from which nothing leads to a master that commits are looked for, too.
    pub(super) with_stuck: bool,
    /// Whether there must be such states that are not for the operator.
    pub(super) gets_stuck: bool,
}

/// The faults that a text names, such as "cr + pause".
pub(super) fn faults(text: &str) -> Faults {
    let mut faults = Faults::default();
    for word in text.split(" + ") {
        let (count, name) = word.split_once(' ').unwrap_or(("1", word));
        let field = match name {
            "cr" => &mut faults.crashes,
            "kill" => &mut faults.kills,
            "pause" | "pauses" => &mut faults.pauses,
            "term" => &mut faults.terms,
            "host" => &mut faults.hosts_lost,
            "sw" => &mut faults.switchovers,
            "slow" => &mut faults.slow,
            "late" => &mut faults.late,
            "override" => &mut faults.overrides,
            other => panic!("{other} is no fault"),
        };
        *field += count.parse::<u8>().unwrap();
    }
    faults
}

fn row(id: &'static str, text: &str) -> Row {
    Row {
        id,
        about: text.to_owned(),
        config: Config::faults(faults(text)),
        expected: None,
        with_stuck: false,
        gets_stuck: false,
    }
}

impl Row {
    fn change(mut self, about: &str, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self.about = format!("{}, {about}", self.about);
        self
    }

    fn size(self, min: u32, max: u32) -> Self {
        self.change(&format!("min {min}, max {max}"), |config| {
            *config = config.size(min, max)
        })
    }

    fn writes(self, writes: u8) -> Self {
        self.change(&format!("{writes} writes"), |config| config.writes = writes)
    }

    fn two_keepers(self) -> Self {
        self.change("two keepers", |config| config.keepers = 2)
    }

    fn without(mut self, changes: &[Change]) -> Self {
        for change in changes {
            self.config = self.config.with(*change);
            self.about = format!("{}, {change:?}", self.about);
        }
        self
    }

    fn settles(mut self) -> Self {
        self.with_stuck = true;
        self
    }

    fn gets_stuck(mut self) -> Self {
        (self.with_stuck, self.gets_stuck) = (true, true);
        self
    }

    fn violates(mut self, violation: Violation) -> Self {
        self.expected = Some(violation);
        self
    }
}

/// All rules on.
fn all_rules() -> Vec<Row> {
    vec![
        row("1", "cr + pause").settles(),
        row("2", "cr + pause").writes(2),
        row("3", "3 pauses"),
        row("4", "2 pauses + slow"),
        row("5", "cr + kill").settles(),
        row("6", "2 cr").settles(),
        row("7", "cr + pause").size(0, 1).settles(),
        row("8", "cr + pause").size(1, 2).settles(),
        row("9", "cr + pause").size(2, 2).settles(),
        row("10", "cr + pause")
            .change("just switched on", |config| config.start = Start::SwitchedOn)
            .settles(),
        row("11", "pause + term").settles(),
        row("12", "pause + term").writes(2),
        row("13a", "kill + term").settles(),
        row("13b", "cr + term").settles(),
        row("14a", "sw + cr").settles(),
        row("14b", "sw + kill").settles(),
        row("14c", "sw + pause").settles(),
        row("15", "sw + cr").size(0, 1).settles(),
        row("16a", "host + cr").settles(),
        row("16b", "host + pause").settles(),
        row("16c", "host + sw").settles(),
        row("17", "host + term").settles(),
        row("18", "cr + kill + pause").two_keepers().writes(2).settles(),
        row("19", "sw + cr + pause").two_keepers().writes(2).settles(),
        row("20", "cr + pause + host").two_keepers().writes(2).settles(),
        row("21a", "cr + pause").change("E is waited for", |config| config.check_names = true),
        row("21b", "2 pauses")
            .size(1, 2)
            .change("E is waited for", |config| config.check_names = true),
    ]
}

/// All rules on, other combinations.
fn more_combinations() -> Vec<Row> {
    vec![
        row("28a", "pause + term").size(2, 2),
        row("28b", "sw + cr").size(2, 2),
        row("28c", "cr + slow"),
        row("28d", "kill + pause"),
        row("28e", "cr + pause").size(0, 2),
        row("28f", "2 slow"),
        row("28g", "pause + term").size(0, 1),
        row("28h", "sw + slow").settles(),
        row("28i", "term + slow").settles(),
        row("28j", "sw + term").settles(),
        row("28k", "2 term").settles(),
        row("29a", "host + override").settles(),
        row("29e", "2 host").settles(),
        row("29f", "2 host + override").settles(),
        row("29b", "host + pause + override").settles(),
        row("29c", "cr + pause + override"),
        row("29d", "cr + pause + override").size(0, 1),
        row("28l", "pause + term").change("just switched on", |config| config.start = Start::SwitchedOn),
    ]
}

/// Elected standbys take WAL from other standbys (synchronous SY-21).
fn catching_up() -> Vec<Row> {
    let row = |id, faults| row(id, faults).change("elected standbys catch up", |config| config.catches_up = true);
    vec![
        row("66a", "cr + pause").settles(),
        row("66b", "cr + kill").settles(),
        row("66c", "2 cr"),
        row("66d", "kill + pause"),
        row("66e", "pause + term"),
        row("66f", "sw + cr"),
        row("66g", "host + cr").settles(),
        row("66h", "cr + pause").size(0, 1),
        row("66i", "cr + pause").size(1, 2),
        row("66j", "cr + pause + override"),
        row("66k", "cr + slow"),
        row("66l", "cr + pause").change("both sentinels", |config| config.reference_sentinel = true),
        row("66m", "cr + pause").writes(2),
    ]
}

/// Mixed clusters (synchronous SY-16).
fn mixed() -> Vec<Row> {
    let sentinels = |config: &mut Config| config.reference_sentinel = true;
    let keepers = |which: u8| {
        move |config: &mut Config| {
            config.reference_keepers = which;
            (config.with_reads, config.with_s0) = (false, false);
        }
    };
    vec![
        row("22a", "cr + pause").change("both sentinels", sentinels),
        row("22b", "cr + term").change("both sentinels", sentinels),
        row("22c", "sw + cr").change("both sentinels", sentinels),
        row("23a", "cr + pause").change("Go stolon's keepers, commits only", keepers(7)),
        row("23b", "cr + pause").change("Go stolon's first master, commits only", keepers(1)),
        row("23c", "cr + pause").change("Go stolon's standbys, commits only", keepers(6)),
        row("23d", "cr + late").change("Go stolon's keepers, commits only", keepers(7)),
        row("23e", "cr + pause")
            .change("Go stolon's keepers, commits only", keepers(7))
            .change("names in force late", |config| config.prompt_reloads = false)
            .violates(Violation::S1),
        row("24", "cr + pause")
            .change("Go stolon's keepers, commits only", keepers(7))
            .without(&[Change::UnmarkedReports])
            .violates(Violation::S1),
        row("25", "cr")
            .change("Go stolon's keepers", keepers(7))
            .change("with reads", |config| config.with_reads = true)
            .violates(Violation::S1),
        row("26", "cr + pause")
            .change("Go stolon's keepers, commits only", keepers(7))
            .change("both sentinels", sentinels)
            .violates(Violation::S1),
        row("27", "cr")
            .change("both sentinels", sentinels)
            .without(&[Change::NamesAfterPromotion])
            .violates(Violation::S0),
    ]
}

/// One rule replaced.
fn replaced() -> Vec<Row> {
    use Change::*;
    use Violation::{S0, S1};
    vec![
        row("30", "cr + pause").without(&[ElectAnyone]).violates(S1),
        row("31", "cr + pause").without(&[ElectWanted]).violates(S1),
        row("32", "cr + pause").without(&[ElectKnown]),
        row("33", "2 pauses")
            .size(1, 2)
            .without(&[ElectKnown, KnownNotCut])
            .violates(S1),
        row("34", "cr + pause").without(&[KnownNotCut]),
        row("35a", "cr + pause").without(&[ElectReported]),
        row("35b", "cr + pause").without(&[ElectKnownOrReported]),
        row("36", "cr + pause").without(&[UnmarkedReports]).violates(S1),
        row("37", "cr + pause").without(&[MarkBeforeInForce]).violates(S1),
        row("38", "cr + pause").without(&[RecordBeforeInForce]),
        row("39", "2 pauses")
            .size(1, 2)
            .without(&[OtherGeneration])
            .violates(S1),
        row("40", "cr + pause").without(&[GateWithoutMark]).violates(S1),
        row("41", "cr + pause").without(&[NoGate]).violates(S1),
        row("42", "cr + kill").without(&[ServerRestartsItself]).violates(S1),
        row("43", "cr + pause").without(&[EmptyListAfterElection]).violates(S0),
        row("44a", "cr + pause").without(&[NoFakeName]).violates(S0),
        row("44b", "cr + pause")
            .size(2, 2)
            .without(&[FakeOnlyWhenEmpty])
            .violates(S0),
        row("44c", "sw + cr")
            .size(2, 2)
            .without(&[FakeOnlyWhenEmpty])
            .violates(S0),
        row("45", "2 pauses + slow").without(&[KnownOfElectedKept]),
        row("46", "cr + pause").without(&[NamesAfterPromotion]),
        row("47", "cr + pause").without(&[PublishUnconverged]),
        row("48", "cr + pause")
            .without(&[NamesAfterPromotion, PublishUnconverged])
            .violates(S0),
        row("49a", "cr + pause").without(&[NamesAfterPromotion, ElectWhileForwarding]),
        row("49b", "cr + pause")
            .without(&[NamesAfterPromotion, ElectWhileForwarding, GoBackWhileForwarding])
            .violates(S1),
        row("50a", "3 pauses").without(&[ElectWhileForwarding]),
        row("50c", "2 pauses")
            .without(&[ElectWhileForwarding, GoBackWhileForwarding])
            .violates(S1),
        row("50b", "2 pauses + slow").without(&[ElectWhileForwarding]),
        row("51a", "2 pauses + slow").without(&[KeepOldMasters]).violates(S1),
        row("51b", "3 pauses")
            .without(&[KeepOldMasters, GoBackToAncestor])
            .violates(S1),
        row("52a", "cr + host")
            .without(&[GoBackOnSameTimeline, KeepOldMasters])
            .gets_stuck(),
        row("52b", "pause + host")
            .without(&[GoBackOnSameTimeline, KeepOldMasters])
            .gets_stuck(),
        row("53", "3 pauses").without(&[GoBackOnSameTimeline, KeepOldMasters, ElectWhileForwarding]),
        row("54", "cr + host").without(&[NeverGoBack]).gets_stuck(),
        row("55a", "cr + pause").without(&[GoBackWhileForwarding]),
        row("55b", "cr + pause").without(&[GoBackAfterPublication]),
        row("55c", "cr + pause + override")
            .without(&[OverrideWhileForwarding])
            .violates(S1),
        row("56", "sw + slow").without(&[PlannedWithoutLsn]).violates(S1),
        row("57", "kill + term").without(&[PlannedWithoutClean]).violates(S1),
        row("58", "kill + term").without(&[UncleanShutdownAnyone]).violates(S1),
        row("59a", "term").without(&[NoPermit]).violates(S1),
        row("59b", "sw + cr").without(&[NoPermit]),
        row("60", "sw + cr").without(&[UnconditionalElections]),
        row("61", "cr + pause").without(&[OldMasterRuns]),
        row("62", "sw + cr").size(0, 1).without(&[PlannedWithinE]),
        row("63a", "cr + pause").without(&[NoMerge]),
        row("63b", "pause + host").without(&[NoMerge]).settles(),
        row("64", "pause + host").without(&[NoAddingBack]).settles(),
        row("65a", "sw + cr").without(&[PublishWhileForwarding]),
        row("65b", "sw + cr").without(&[SwitchoverWithOldMasters]),
        row("65c", "sw + cr").without(&[PublishDuringSwitchover]),
    ]
}

/// All rows.
pub(super) fn rows() -> Vec<Row> {
    let parts = [all_rules(), more_combinations(), catching_up(), mixed(), replaced()];
    parts.into_iter().flatten().collect()
}
