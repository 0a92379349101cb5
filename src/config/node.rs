//! The tables `[node]`, `[runtime]` and `[metrics]`.

use std::path::PathBuf;

use crate::engine::runtime::LINKED_RUNTIME;
use crate::schema::{Checker, Key, table};

table! {
    /// The device that edgewatt runs on.
    pub struct Node {
        /// The node's name, one level of every topic.
        pub id: Option<String>, otherwise("the host's name"), example("\"porch\"");
        /// The folder for what must survive a restart.
        pub state_dir: Option<PathBuf>, otherwise("$STATE_DIRECTORY, which systemd sets; else /var/lib/edgewatt"),
            example("\"/var/lib/edgewatt\"");
        /// Whether all of the daemon's memory is kept in RAM, if the kernel permits it. See docs/realtime.md.
        pub lock_memory: bool = false;
    }
}

table! {
    /// The TensorFlow Lite runtime.
    pub struct Runtime {
        /// The library. In a build with the cargo feature tflitec, "linked" is the library that the binary is linked with; it
        /// runs the delegates cpu and xnnpack only.
        pub library: Option<PathBuf>, example("\"/usr/lib/edgewatt/libtensorflowlite_c.so\""),
            otherwise("$EDGEWATT_RUNTIME; else libtensorflowlite_c.so, which is looked for beside the binary, in its \
            ../lib/edgewatt, in the checkout that it was built in (`runtime/ARCH`, which `make runtime` fills), and in \
            /usr/lib/edgewatt, /usr/local/lib, /usr/lib/ARCH-linux-gnu and /usr/lib");
    }
}

table! {
    /// The metrics messages.
    pub struct Metrics {
        /// The time between two metrics messages.
        pub interval_s: f64 = 10.0, range(0.1, 86_400.0), unit("s");
    }
}

impl Node {
    /// Returns the node's name; `hostname` is used if none is written.
    pub fn checked_id(&self, key: &Key, hostname: Option<&str>, checker: &mut Checker) -> String {
        let key = key.child("id");
        match self.id.as_deref().or(hostname) {
            Some(id) => {
                checker.topic_level(&key, id);
                id.to_owned()
            }
            None => {
                checker.problem(&key, "the host has no usable name; write id = \"...\" under [node]");
                String::new()
            }
        }
    }
}

impl Runtime {
    /// Returns where the library is, or [`LINKED_RUNTIME`].
    pub fn checked_library(self, checker: &Checker) -> Option<PathBuf> {
        let path =
            |library: PathBuf| if library.as_os_str() == LINKED_RUNTIME { library } else { checker.path(&library) };
        self.library.map(path)
    }
}
