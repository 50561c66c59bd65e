//! Limits of Linux and Kubernetes that a Job must keep.

/// Linux' limit of one string passed to a new process, with its closing NUL, in bytes (`MAX_ARG_STRLEN`). It applies to
/// each argument and to each variable as `NAME=value`.
const PROCESS_STRING: usize = 131_072;
/// Kubernetes' limit of a Secret's data, in bytes.
const SECRET: usize = 1_048_576;

/// Why no pod could start from a Job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A variable exceeds Linux' limit.
    #[error(
        "Environment variable {name} is too large: {size} bytes as NAME=value, Linux allows {} for one variable",
        PROCESS_STRING - 1
    )]
    EnvTooLarge {
        /// The variable.
        name: String,
        /// Bytes of `NAME=value`.
        size: usize,
    },
    /// The agent's command line exceeds Linux' limit.
    #[error(
        "The agent's command is too large: {size} bytes, Linux allows {} for one argument (see extraArgs)",
        PROCESS_STRING - 1
    )]
    CommandTooLarge {
        /// Bytes of the shell command.
        size: usize,
    },
    /// The prompt and its attachments exceed Kubernetes' limit.
    #[error("The prompt Secret is too large: {size} bytes, Kubernetes allows {SECRET}")]
    SecretTooLarge {
        /// Bytes of all values.
        size: usize,
    },
    /// The agent would have the host's own rights in the cluster.
    #[error(
        "serviceAccountName {name} is the account of Paperclip's own pod: agents get it only where \
         PAPERCLIP_K8S_SERVICE_ACCOUNTS in Paperclip's environment lists it"
    )]
    HostAccount {
        /// The account.
        name: String,
    },
    /// The agent would work in a folder that it does not get.
    #[error(
        "The folder {path} is not one that agents get (PAPERCLIP_K8S_VOLUME=scoped): those are the host's workspaces, the \
         projects of the agent's company, and workspaces that the host itself names outside of its instances"
    )]
    NotScoped {
        /// The folder.
        path: String,
    },
    /// The folder that the agent is to work in is not absolute: no container could start in it.
    #[error("The folder {path} of the run's workspace is not an absolute path")]
    RelativeFolder {
        /// The folder.
        path: String,
    },
    /// A NUL character where the operating system allows none.
    #[error("{what} contains a NUL character")]
    Nul {
        /// What contains it.
        what: String,
    },
}

/// Whether a variable fits into a process's environment.
pub(super) fn env_fits(name: &str, value: &str) -> bool {
    env_size(name, value) < PROCESS_STRING
}

/// Checks a variable.
pub(super) fn check_env(name: &str, value: &str) -> Result<(), ManifestError> {
    if value.contains('\0') {
        return Err(ManifestError::Nul { what: format!("Environment variable {name}") });
    }
    if !env_fits(name, value) {
        return Err(ManifestError::EnvTooLarge { name: name.to_owned(), size: env_size(name, value) });
    }
    Ok(())
}

/// Checks the shell command of the agent's container.
pub(super) fn check_command(command: &str) -> Result<(), ManifestError> {
    if command.contains('\0') {
        return Err(ManifestError::Nul { what: "The agent's command".to_owned() });
    }
    if command.len() >= PROCESS_STRING {
        return Err(ManifestError::CommandTooLarge { size: command.len() });
    }
    Ok(())
}

/// Checks the data of a Secret.
pub(super) fn check_secret<'a>(values: impl Iterator<Item = &'a String>) -> Result<(), ManifestError> {
    let size = values.map(String::len).sum();
    if size > SECRET {
        return Err(ManifestError::SecretTooLarge { size });
    }
    Ok(())
}

fn env_size(name: &str, value: &str) -> usize {
    name.len() + "=".len() + value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    // The largest that Linux accepts, found by trying: `NAME=value` of 131,071 bytes starts, one more is E2BIG.
    #[test]
    fn largest_allowed_passes_and_one_byte_more_fails() {
        let fits = "x".repeat(131_071 - "A=".len());
        assert_eq!(check_env("A", &fits), Ok(()));
        let error = check_env("AB", &fits).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Environment variable AB is too large: 131072 bytes as NAME=value, Linux allows 131071 for one variable"
        );

        assert_eq!(check_command(&"x".repeat(131_071)), Ok(()));
        let error = check_command(&"x".repeat(131_072)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "The agent's command is too large: 131072 bytes, Linux allows 131071 for one argument (see extraArgs)"
        );

        let half = "é".repeat(262_144);
        assert_eq!(check_secret([&half, &half].into_iter()), Ok(()));
        let error = check_secret([&half, &half, &"!".to_owned()].into_iter()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "The prompt Secret is too large: 1048577 bytes, Kubernetes allows 1048576"
        );
    }

    #[test]
    fn nul_is_refused() {
        assert_eq!(
            check_env("A", "x\0").unwrap_err().to_string(),
            "Environment variable A contains a NUL character"
        );
        assert_eq!(
            check_command("\0").unwrap_err().to_string(),
            "The agent's command contains a NUL character"
        );
    }
}
