//! Tests of the stored form: golden values are written back unchanged, and every corner case of data-model 12.

use super::*;

mod corner_cases;
mod golden;
