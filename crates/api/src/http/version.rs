//! API versions: the prefix of a path, and dockerd's words for one that is not served.

use std::fmt;

/// `major.minor` of the Engine API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiVersion {
    major: u32,
    minor: u32,
}

/// The newest version served; also what a path without a prefix means.
pub(crate) const MAXIMUM: ApiVersion = ApiVersion {
    major: 1,
    minor: 51,
};

/// The oldest version served.
pub(crate) const MINIMUM: ApiVersion = ApiVersion {
    major: 1,
    minor: 24,
};

impl ApiVersion {
    /// The version of a path's first segment: `v1.43`.
    pub(crate) fn from_segment(segment: &str) -> Option<Self> {
        let (major, minor) = segment.strip_prefix('v')?.split_once('.')?;
        let number = |text: &str| {
            let digits =
                !text.is_empty() && text.len() <= 6 && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        Some(Self {
            major: number(major)?,
            minor: number(minor)?,
        })
    }

    /// Whether this is version 1.`minor` or newer.
    pub(crate) fn at_least(self, minor: u32) -> bool {
        self >= Self { major: 1, minor }
    }

    /// Whether this is older than version 1.`minor`.
    pub(crate) fn before(self, minor: u32) -> bool {
        !self.at_least(minor)
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments() {
        assert_eq!(ApiVersion::from_segment("v1.51"), Some(MAXIMUM));
        assert!(ApiVersion::from_segment("v1.9").unwrap() < MINIMUM);
        for other in [
            "v1",
            "1.51",
            "v1.x",
            "v1.",
            "v.1",
            "containers",
            "v1.1.1",
            "v9999999.1",
        ] {
            assert_eq!(ApiVersion::from_segment(other), None, "{other}");
        }
        assert!(MAXIMUM.at_least(44) && MINIMUM.before(44));
    }
}
