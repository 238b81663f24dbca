//! Whether a container that ended is started again. Pure: the history comes in, the decision goes out.

use std::time::Duration;

use crate::model::RestartPolicy;

/// The first pause before a restart.
const FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(60);
/// A run of this length counts as success: the pause starts over.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// What is remembered between the runs of one container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RestartHistory {
    /// Restarts by the policy since the last start by a person.
    pub(crate) count: u32,
    /// The last pause.
    pub(crate) pause: Duration,
}

/// What becomes of a container that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum RestartDecision {
    /// It stays.
    Stay,
    /// It starts again after the pause in the history.
    Again(RestartHistory),
}

/// How the last run went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastRun {
    pub(crate) code: i32,
    pub(crate) lasted: Duration,
    /// Somebody asked for the end.
    pub(crate) asked_to_stop: bool,
}

/// Decides.
pub(crate) fn decide(
    policy: &RestartPolicy,
    run: LastRun,
    history: RestartHistory,
) -> RestartDecision {
    if run.asked_to_stop {
        return RestartDecision::Stay;
    }
    let wanted = match policy.name.as_str() {
        "always" | "unless-stopped" => true,
        "on-failure" => {
            let limit = u32::try_from(policy.maximum_retry_count).unwrap_or(0);
            run.code != 0 && (limit == 0 || history.count < limit)
        }
        _ => false,
    };
    if !wanted {
        return RestartDecision::Stay;
    }
    let pause = if run.lasted >= GOOD_RUN || history.pause.is_zero() {
        FIRST
    } else {
        (history.pause * 2).min(LONGEST)
    };
    RestartDecision::Again(RestartHistory {
        count: history.count.saturating_add(1),
        pause,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(name: &str, count: i32) -> RestartPolicy {
        RestartPolicy {
            name: name.into(),
            maximum_retry_count: count,
        }
    }

    fn run(code: i32, seconds: u64) -> LastRun {
        LastRun {
            code,
            lasted: Duration::from_secs(seconds),
            asked_to_stop: false,
        }
    }

    #[test]
    fn pauses_double_and_start_over() {
        let mut history = RestartHistory::default();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let RestartDecision::Again(next) = decide(&policy("always", 0), run(0, 1), history)
            else {
                panic!()
            };
            pauses.push(next.pause.as_millis());
            history = next;
        }
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[11], 60_000);
        let RestartDecision::Again(next) = decide(&policy("always", 0), run(0, 10), history) else {
            panic!()
        };
        assert_eq!(next.pause, FIRST);
    }

    #[test]
    fn policies() {
        let history = RestartHistory {
            count: 2,
            ..Default::default()
        };
        assert_eq!(
            decide(&policy("no", 0), run(1, 0), history),
            RestartDecision::Stay
        );
        assert_eq!(
            decide(&policy("", 0), run(1, 0), history),
            RestartDecision::Stay
        );
        assert_eq!(
            decide(&policy("on-failure", 2), run(1, 0), history),
            RestartDecision::Stay
        );
        assert_ne!(
            decide(&policy("on-failure", 3), run(1, 0), history),
            RestartDecision::Stay
        );
        assert_eq!(
            decide(&policy("on-failure", 0), run(0, 0), history),
            RestartDecision::Stay
        );
        let asked = LastRun {
            asked_to_stop: true,
            ..run(1, 0)
        };
        assert_eq!(
            decide(&policy("always", 0), asked, history),
            RestartDecision::Stay
        );
    }

    proptest! {
        #[test]
        fn never_beyond_the_limit(limit in 1..20_i32, codes in prop::collection::vec(1..255_i32, 0..60)) {
            let mut history = RestartHistory::default();
            for code in codes {
                match decide(&policy("on-failure", limit), run(code, 0), history) {
                    RestartDecision::Again(next) => {
                        prop_assert_eq!(next.count, history.count + 1);
                        prop_assert!(next.pause <= LONGEST && next.pause >= FIRST);
                        history = next;
                    }
                    RestartDecision::Stay => prop_assert_eq!(history.count, u32::try_from(limit).unwrap()),
                }
            }
        }
    }
}
