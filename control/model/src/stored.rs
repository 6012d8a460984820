//! The value of the `clusterdata` key as a reader finds it, and its one decoder. How a program acts on each case is left
//! to the program.

use crate::{CheckedClusterData, ClusterData, JsonError, Unusable};

/// The value of the `clusterdata` key.
#[derive(Debug, Clone, PartialEq)]
pub enum Stored {
    /// The key does not exist, or holds `null` (store C-5).
    Absent,
    /// The value is not a cluster data document.
    Undecodable(JsonError),
    /// A document of another format version, or without a valid spec. Nothing may be decided from it.
    Unusable {
        /// The document as read.
        data: Box<ClusterData>,
        /// The first reason.
        why: Unusable,
    },
    /// A usable document.
    Usable(Box<CheckedClusterData>),
}

impl Stored {
    /// Decodes and checks a value; `None` if the key does not exist.
    pub fn decode(value: Option<&[u8]>) -> Self {
        match value.map(ClusterData::parse).transpose() {
            Ok(None | Some(None)) => Self::Absent,
            Err(error) => Self::Undecodable(error),
            Ok(Some(Some(data))) => match data.effective_spec() {
                Ok(spec) => Self::Usable(Box::new(CheckedClusterData { data, spec })),
                Err(why) => Self::Unusable {
                    data: Box::new(data),
                    why,
                },
            },
        }
    }

    /// Returns the usable document, if it is one.
    pub fn usable(&self) -> Option<&CheckedClusterData> {
        match self {
            Self::Usable(checked) => Some(checked),
            Self::Absent | Self::Undecodable(_) | Self::Unusable { .. } => None,
        }
    }

    /// Returns the document, usable or not; `None` if there is none.
    ///
    /// # Errors
    /// The value is not a cluster data document.
    pub fn into_document(self) -> Result<Option<ClusterData>, JsonError> {
        match self {
            Self::Absent => Ok(None),
            Self::Undecodable(error) => Err(error),
            Self::Unusable { data, .. } => Ok(Some(*data)),
            Self::Usable(checked) => Ok(Some(checked.data)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes a value and returns the kind of the result, with its reason.
    fn decoded(value: &str) -> String {
        match Stored::decode(Some(value.as_bytes())) {
            Stored::Absent => "absent".to_owned(),
            Stored::Undecodable(error) => format!("undecodable: {error}"),
            Stored::Unusable { why, .. } => format!("unusable: {why}"),
            Stored::Usable(_) => "usable".to_owned(),
        }
    }

    #[test]
    fn a_value_is_absent_undecodable_unusable_or_usable() {
        assert_eq!(Stored::decode(None), Stored::Absent);
        assert_eq!(decoded("null"), "absent");
        assert_eq!(
            decoded("[]"),
            "undecodable: document: expected an object, found an array"
        );
        assert_eq!(decoded(r#"{"formatVersion":1}"#), "unusable: no cluster spec available");
        assert_eq!(
            decoded(r#"{"formatVersion":2}"#),
            "unusable: unsupported clusterdata format version 2: this program works with version 1"
        );
        let negative = r#"{"formatVersion":1,"cluster":{"spec":{"initMode":"new","failInterval":"-1s"}}}"#;
        assert_eq!(decoded(negative), "unusable: clusterdata validation failed");
        assert_eq!(
            decoded(r#"{"formatVersion":1,"cluster":{"spec":{"initMode":"new"}}}"#),
            "usable"
        );
    }

    #[test]
    fn the_document_of_unusable_data_is_kept() {
        let stored = Stored::decode(Some(br#"{"formatVersion":2,"cluster":{"uid":"c1"}}"#));
        assert_eq!(stored.usable(), None);
        let document = stored.into_document().unwrap().unwrap();
        assert_eq!(document.cluster.unwrap().uid.as_str(), "c1");
    }
}
