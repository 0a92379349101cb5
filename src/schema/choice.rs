//! `choice!`: a key that takes one of several words.

/// Declares an enum that is written as one word.
///
/// ```text
/// choice! {
///     /// What a power sensor's supply feeds.
///     #[derive(Default)]
///     pub enum Scope { #[default] Board = "board", Device = "device" }
/// }
/// ```
macro_rules! choice {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident { $( $(#[$variant_meta:meta])* $variant:ident = $word:literal ),+ $(,)? }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        $vis enum $name { $( $(#[$variant_meta])* #[serde(rename = $word)] $variant ),+ }

        impl $name {
            /// Returns the word as it stands in the configuration and in messages.
            #[allow(dead_code)]
            $vis fn name(self) -> &'static str {
                match self { $( Self::$variant => $word ),+ }
            }
        }

        impl $crate::schema::Value for $name {
            fn type_name() -> String {
                "string".to_owned()
            }
            fn form() -> $crate::schema::Form {
                $crate::schema::Form::Words(vec![$( $word.to_owned() ),+])
            }
            fn to_toml(&self) -> String {
                format!("{:?}", self.name())
            }
            fn choices() -> Vec<String> {
                vec![$( format!("{:?}", $word) ),+]
            }
        }
    };
}

pub(crate) use choice;
