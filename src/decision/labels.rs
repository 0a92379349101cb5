//! Which of a model's labels a decision is about, by the names in the configuration.

use crate::engine::EngineError;
use crate::schema::{Checker, Key};
use crate::text::nearest;

/// Checks the names of labels at `key`: each is there once.
pub(super) fn check(key: &Key, names: &[String], checker: &mut Checker) {
    for (place, name) in names.iter().enumerate() {
        if names[..place].contains(name) {
            checker.problem(&key.child(place), format!("`{name}` is there twice"));
        }
    }
}

/// Checks a list of the only labels that are decided on.
pub(super) fn check_allowed(key: &Key, allow: Option<&[String]>, checker: &mut Checker) {
    let Some(allow) = allow else { return };
    check(key, allow, checker);
    if allow.is_empty() {
        checker.problem(key, "without a label nothing is ever decided; name some, or leave the key out for all");
    }
}

/// Returns whether each of the classes is one of these labels.
///
/// # Errors
/// A label that the model does not have; the message has the key and the label that was probably meant.
pub(super) fn among(classes: &[String], key: &str, labels: &[String]) -> Result<Vec<bool>, EngineError> {
    labels.iter().try_for_each(|label| known(classes, key, label))?;
    Ok(classes.iter().map(|class| labels.contains(class)).collect())
}

/// # Errors
/// The model does not have that label; the message has the key and the label that was probably meant.
pub(super) fn known(classes: &[String], key: &str, label: &String) -> Result<(), EngineError> {
    if classes.contains(label) {
        return Ok(());
    }
    let names: Vec<&str> = classes.iter().map(String::as_str).collect();
    let part = label.to_lowercase();
    // Labels of species are long, and people know one of their names.
    let containing = || names.iter().find(|name| part.len() > 2 && name.to_lowercase().contains(&part)).copied();
    let meant = nearest(label, &names).or_else(containing);
    let meant = meant.map_or_else(String::new, |meant| format!("; did you mean `{meant}`?"));
    Err(EngineError::Mismatch(format!("{key}: `{label}` is not one of the model's {} labels{meant}", classes.len())))
}

#[cfg(test)]
mod tests {
    use super::super::tests::names;
    use super::*;

    #[test]
    fn a_label_that_is_not_there_is_refused_with_the_one_that_was_meant() {
        let classes = names(&["Bark", "Speech", "Turdus merula_Eurasian Blackbird"]);
        assert_eq!(among(&classes, "deny", &names(&["Speech"])).unwrap(), [false, true, false]);
        let refused = |label: &str| known(&classes, "allow", &label.to_owned()).unwrap_err().to_string();
        assert!(
            refused("Speach").contains("allow: `Speach` is not one of the model's 3 labels; did you mean `Speech`?")
        );
        assert!(refused("blackbird").contains("did you mean `Turdus merula_Eurasian Blackbird`?"));
        assert!(refused("Helicopter").ends_with("3 labels"));
    }
}
