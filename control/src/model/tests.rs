//! Tests of the stored forms: what is read is written back unchanged, and every corner case of data-model 12.

use super::*;

mod corner_cases;
mod golden;
