//! How a process ended.

/// The end of a process, as `wait(2)` tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum ExitStatus {
    /// It called `exit` with this code (0–255).
    Exited(u8),
    /// This signal ended it (1–64).
    Signaled(u8),
}

impl ExitStatus {
    /// The exit code as Docker and shells tell it: the code, or 128 + the signal.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => i32::from(code),
            Self::Signaled(signal) => 128 + i32::from(signal),
        }
    }

    /// Whether it ended with code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }

    /// The meaning of a status word of `wait(2)` of a process that has ended.
    #[must_use]
    pub fn from_wait_status(status: i32) -> Self {
        let [low, high, ..] = status.to_le_bytes();
        match low & 0x7f {
            0 => Self::Exited(high),
            signal => Self::Signaled(signal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_status() {
        assert_eq!(ExitStatus::from_wait_status(0x0300).code(), 3);
        assert_eq!(ExitStatus::from_wait_status(9).code(), 137);
        assert_eq!(
            ExitStatus::from_wait_status(0x80 | 11),
            ExitStatus::Signaled(11)
        );
    }
}
