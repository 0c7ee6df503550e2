//! H.264's `profile-level-id` (RFC 6184 section 8.1): its profile and its level. Streams match by profile, never by the
//! string.

use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Profile {
    ConstrainedBaseline,
    Baseline,
    Main,
    ConstrainedHigh,
    High,
}

impl Profile {
    /// Constrained high is a part of high: Safari names it (640c1f), Chromium and the router name high (64001f), and
    /// what plays the one plays the other.
    pub(super) fn plays(self, other: Profile) -> bool {
        let wide = |profile| if profile == Profile::ConstrainedHigh { Profile::High } else { profile };
        wide(self) == wide(other)
    }
}

/// Ten times the level's number (31 for 3.1). Level 1b, which lies between 1 and 1.1, is 9 as in `level_idc` of the
/// high profiles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Level(u8);

impl Level {
    pub(super) const L3_1: Level = Level(31);
    const L1B: Level = Level(9);

    fn new(idc: u8) -> Option<Level> {
        matches!(idc, 10..=13 | 20..=22 | 30..=32 | 40..=42 | 50..=52).then_some(Level(idc))
    }

    pub(super) fn min(self, other: Level) -> Level {
        let rank = |level: Level| if level == Level::L1B { 21 } else { u16::from(level.0) * 2 };
        if rank(other) < rank(self) { other } else { self }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ProfileLevel {
    pub(super) profile: Profile,
    pub(super) level: Level,
}

impl ProfileLevel {
    /// The meaning of a missing `profile-level-id` to browsers, whatever RFC 6184 says (baseline, level 1).
    pub(super) const DEFAULT: ProfileLevel = ProfileLevel { profile: Profile::ConstrainedBaseline, level: Level::L3_1 };

    pub(super) fn parse(text: &str) -> Option<ProfileLevel> {
        if text.len() != 6 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let [_, idc, iop, level_idc] = u32::from_str_radix(text, 16).ok()?.to_be_bytes();
        // RFC 6184 table 5: bits of profile-iop that are fixed for a profile; its low four bits are zero but for
        // constrained high, which H.264 A.2.4.2 marks by constraint_set4 and 5.
        let profile = match (idc, iop) {
            (0x42, iop) if iop & 0x4f == 0x40 => Profile::ConstrainedBaseline,
            (0x4d, iop) if iop & 0x8f == 0x80 => Profile::ConstrainedBaseline,
            (0x58, iop) if iop & 0xcf == 0xc0 => Profile::ConstrainedBaseline,
            (0x42, iop) if iop & 0x4f == 0 => Profile::Baseline,
            (0x58, iop) if iop & 0xcf == 0x80 => Profile::Baseline,
            (0x4d, iop) if iop & 0xaf == 0 => Profile::Main,
            (0x64, 0x00) => Profile::High,
            (0x64, 0x0c) => Profile::ConstrainedHigh,
            _ => return None,
        };
        // Level 11 with constraint_set3 is level 1b (H.264 A.3.1).
        let level = if level_idc == 11 && iop & 0x10 != 0 { Level::L1B } else { Level::new(level_idc)? };
        Some(ProfileLevel { profile, level })
    }
}

impl fmt::Display for ProfileLevel {
    /// The usual spelling of each profile.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one_b = self.level == Level::L1B;
        let (prefix, level) = match self.profile {
            Profile::ConstrainedBaseline if one_b => ("42f0", 11),
            Profile::Baseline if one_b => ("4210", 11),
            Profile::Main if one_b => ("4d10", 11),
            Profile::ConstrainedBaseline => ("42e0", self.level.0),
            Profile::Baseline => ("4200", self.level.0),
            Profile::Main => ("4d00", self.level.0),
            Profile::ConstrainedHigh => ("640c", self.level.0),
            Profile::High => ("6400", self.level.0),
        };
        write!(f, "{prefix}{level:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_strings_name_their_profiles() {
        let profile = |text| ProfileLevel::parse(text).map(|parsed| parsed.profile);
        assert_eq!(profile("42e01f"), Some(Profile::ConstrainedBaseline));
        assert_eq!(profile("42E034"), Some(Profile::ConstrainedBaseline));
        assert_eq!(profile("42001f"), Some(Profile::Baseline));
        assert_eq!(profile("4d001f"), Some(Profile::Main));
        assert_eq!(profile("4d801f"), Some(Profile::ConstrainedBaseline));
        assert_eq!(profile("64001f"), Some(Profile::High));
        assert_eq!(profile("640c1f"), Some(Profile::ConstrainedHigh));
        for bad in ["", "42e0", "42e01f0", "42e0zz", "+2e01f", "ffffff", "42e0ff", "000000", "64011f"] {
            assert_eq!(profile(bad), None, "{bad}");
        }
    }

    #[test]
    fn constrained_high_is_high_and_nothing_else_is_another() {
        let all = [Profile::ConstrainedBaseline, Profile::Baseline, Profile::Main, Profile::High];
        for (i, a) in all.into_iter().enumerate() {
            for (j, b) in all.into_iter().enumerate() {
                assert_eq!(a.plays(b), i == j);
            }
        }
        assert!(Profile::ConstrainedHigh.plays(Profile::High) && Profile::High.plays(Profile::ConstrainedHigh));
    }

    #[test]
    fn spelling_and_level_order_know_level_1b() {
        for text in ["42e01f", "42001f", "4d0028", "640c1f", "640034", "42f00b", "42100b", "4d100b", "42e00b"] {
            assert_eq!(ProfileLevel::parse(text).unwrap().to_string(), text);
        }
        let level = |text| ProfileLevel::parse(text).unwrap().level;
        assert_eq!(level("42f00b").min(level("42e00a")), level("42e00a"));
        assert_eq!(level("42f00b").min(level("42e00b")), level("42f00b"));
        assert_eq!(level("42e034").min(Level::L3_1), Level::L3_1);
    }
}
