//! A hook between read and write, for tests. It exists in debug builds and with the feature `test-hooks`.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Names a file. While it exists, a relay thread that has read bytes creates `<file>.paused` beside it and sleeps,
/// before it checks the gate, until the file is gone.
const PAUSE_FILE: &str = "STOLON_TEST_PAUSE_RELAY";

#[derive(Clone, Default)]
pub(super) struct Hook(Option<Arc<dyn Fn() + Send + Sync>>);

impl Hook {
    pub(super) fn new(hook: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    pub(super) fn from_env() -> Self {
        let Some(file) = std::env::var_os(PAUSE_FILE).map(PathBuf::from) else {
            return Self(None);
        };
        let mut paused_file = file.clone().into_os_string();
        paused_file.push(".paused");
        Self::new(move || {
            if !file.exists() {
                return;
            }
            if let Err(err) = std::fs::write(&paused_file, "") {
                tracing::error!(error = %err, "could not report that the relay is paused");
            }
            while file.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
        })
    }

    pub(super) fn run(&self) {
        if let Some(hook) = &self.0 {
            hook();
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Hook(set)" } else { "Hook" })
    }
}
