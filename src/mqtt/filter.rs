//! Topic filters: their form, and which topics they match. Pure.

/// Longest filter that MQTT can carry.
const MAX_BYTES: usize = 65_535;

/// Checks the form of a filter.
///
/// # Errors
/// What is wrong with it, and what would be right.
pub fn check(filter: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("`{filter}`: {why}"));
    if filter.is_empty() || filter.len() > MAX_BYTES {
        return wrong("a topic filter has 1 to 65535 bytes");
    }
    if filter.contains(char::is_control) {
        return wrong("a topic has no control characters");
    }
    if filter.starts_with("$share/") && filter.splitn(3, '/').nth(2).is_none_or(str::is_empty) {
        return wrong("a shared subscription is written \"$share/GROUP/FILTER\"");
    }
    let mut levels = shared(filter).split('/').peekable();
    while let Some(level) = levels.next() {
        if level == "#" && levels.peek().is_some() {
            return wrong("`#` is the last level: write \"a/#\"");
        }
        if level.len() > 1 && level.contains(['+', '#']) {
            return wrong("`+` and `#` stand for whole levels: write \"a/+/b\" or \"a/#\"");
        }
    }
    Ok(())
}

/// Returns whether the filter, whose form was checked, matches the topic.
pub fn matches(filter: &str, topic: &str) -> bool {
    let filter = shared(filter);
    // Most filters name one topic.
    filter == topic || overlap(filter, topic)
}

/// Returns whether there are topics that both filters match.
pub fn overlap(one: &str, other: &str) -> bool {
    let (one, other) = (shared(one), shared(other));
    let is_wild = |filter: &str| filter.starts_with(['+', '#']);
    if one.starts_with('$') && is_wild(other) || other.starts_with('$') && is_wild(one) {
        return false;
    }
    let (mut one, mut other) = (one.split('/'), other.split('/'));
    loop {
        match (one.next(), other.next()) {
            // `a/#` matches `a` too.
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(ours), Some(theirs)) => {
                if ours != theirs && ours != "+" && theirs != "+" {
                    return false;
                }
            }
        }
    }
}

/// Returns the filter of a shared subscription, or else the filter as it is.
fn shared(filter: &str) -> &str {
    let of_group = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    of_group.map_or(filter, |(_, filter)| filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_matches_as_the_standard_says() {
        for (filter, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a/b/c", false),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("+/+", "/b", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab/c", false),
            ("#", "a/b", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("$share/g/a/+", "a/b", true),
            ("$share/g/a/+", "g/a/b", false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn filters_overlap_if_a_topic_is_in_both() {
        for (one, other, expected) in [
            ("#", "edgewatt/porch/#", true),
            ("+/+/status", "edgewatt/porch/#", true),
            ("edgewatt/#", "edgewatt/porch/#", true),
            ("edgewatt/porch", "edgewatt/porch/#", true),
            ("edgewatt/+/p/+/prediction", "edgewatt/porch/#", true),
            ("edgewatt/cellar/#", "edgewatt/porch/#", false),
            ("tele/+/SENSOR", "edgewatt/porch/#", false),
            ("+/SENSOR", "edgewatt/porch/#", false),
            ("a/+/c", "+/b/c", true),
            ("a/+/c", "+/b/d", false),
        ] {
            assert_eq!((overlap(one, other), overlap(other, one)), (expected, expected), "{one} {other}");
        }
    }

    #[test]
    fn a_filter_of_a_wrong_form_says_what_is_right() {
        for right in ["a", "/", "a/+/b", "a/#", "#", "+", "$share/g/a", "tele/Küche 1/SENSOR"] {
            assert_eq!(check(right), Ok(()), "{right}");
        }
        for (wrong, words) in [
            ("", "1 to 65535 bytes"),
            ("a/#/b", "`#` is the last level"),
            ("a/b+", "whole levels"),
            ("a#", "whole levels"),
            ("$share/g", "$share/GROUP/FILTER"),
            ("$share/g/", "$share/GROUP/FILTER"),
            ("a\0", "control characters"),
        ] {
            assert!(check(wrong).unwrap_err().contains(words), "{wrong}");
        }
    }
}
