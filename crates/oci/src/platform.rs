//! Platforms: operating system, architecture, variant (OCI image spec, image-index.md).

use std::fmt;
use std::str::FromStr;

/// What a program is built for, in Go's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `linux`
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v8`, `v7`, …; empty: none
    pub variant: String,
}

/// Why a text is no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {0:?}: expected os/architecture[/variant], such as linux/amd64 or linux/arm/v7")]
pub struct PlatformError(String);

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }
    }

    /// How well `offered` serves this platform: `None` not at all, lower is better.
    pub fn rank(&self, offered: &Self) -> Option<u8> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let (want, have) = (self.variant(), offered.variant());
        if want == have {
            return Some(0);
        }
        match (self.version(), offered.version()) {
            // Each version runs what was built for those before it; the newest of them is the best.
            (Some(want), Some(have)) if have < want => {
                let behind =
                    (want.0 - have.0).saturating_mul(10).saturating_add(want.1).saturating_sub(have.1);
                Some(u8::try_from(behind).unwrap_or(100).clamp(1, 100))
            }
            (Some(_), Some(_)) => None,
            _ if have.is_empty() => Some(100),
            _ => None,
        }
    }

    /// The variant, where the architecture implies one that is usually left out.
    fn variant(&self) -> &str {
        match (self.architecture.as_str(), self.variant.as_str()) {
            ("arm64", "" | "8") => "v8",
            ("arm", "" | "7") => "v7",
            ("arm", "6") => "v6",
            ("arm", "5") => "v5",
            ("amd64", "") => "v1",
            (_, v) => v,
        }
    }

    /// The variant as a number, where the architecture's variants are versions.
    fn version(&self) -> Option<(u32, u32)> {
        if !matches!(self.architecture.as_str(), "arm" | "arm64" | "amd64") {
            return None;
        }
        let number = self.variant().strip_prefix('v')?;
        let (major, minor) = number.split_once('.').unwrap_or((number, "0"));
        Some((major.parse().ok()?, minor.parse().ok()?))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let mut parts = text.split('/');
        let (os, architecture, variant) = (parts.next(), parts.next(), parts.next().unwrap_or(""));
        match (os, architecture, parts.next()) {
            (Some(os), Some(architecture), None) if !os.is_empty() && !architecture.is_empty() => {
                Ok(Self { os: os.into(), architecture: architecture.into(), variant: variant.into() })
            }
            _ => Err(PlatformError(text.chars().take(100).collect())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn variants_are_ranked() {
        assert_eq!(p("linux/amd64").rank(&p("linux/amd64")), Some(0));
        assert_eq!(p("linux/arm64").rank(&p("linux/arm64/v8")), Some(0));
        let arm = |have: &str| p("linux/arm/v7").rank(&p(have));
        assert!(arm("linux/arm").unwrap() < arm("linux/arm/v6").unwrap());
        assert!(arm("linux/arm/v6").unwrap() < arm("linux/arm/v5").unwrap());
        assert_eq!(arm("linux/arm/v8"), None);
        assert_eq!(p("linux/arm64/v9").rank(&p("linux/arm64")), Some(10));
        assert_eq!(p("linux/arm64").rank(&p("linux/arm64/v9")), None);
        assert_eq!(p("linux/amd64").rank(&p("linux/amd64/v1")), Some(0));
        assert_eq!(p("linux/amd64").rank(&p("linux/amd64/v3")), None);
        assert!(p("linux/amd64/v3").rank(&p("linux/amd64/v2")) < p("linux/amd64/v3").rank(&p("linux/amd64")));
        assert_eq!(p("linux/mips/r6").rank(&p("linux/mips")), Some(100));
        assert_eq!(p("linux/arm/odd").rank(&p("linux/arm")), None);
        assert_eq!(p("linux/arm/v6").rank(&p("linux/arm/v7")), None);
        assert_eq!(p("linux/amd64").rank(&p("linux/arm64")), None);
        assert_eq!(p("linux/amd64").rank(&p("windows/amd64")), None);
        assert_eq!(p("linux/arm/v7").to_string(), "linux/arm/v7");
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
