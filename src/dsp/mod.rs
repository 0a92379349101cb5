//! Signal processing that front ends and features share: windows of a frame, Fourier and cosine transforms, mel filters,
//! recursive filters, statistics.
//!
//! Owns the maths, and knows neither streams nor the configuration of a kind. Everything is allocated when it is built;
//! to apply it allocates nothing. Tables are computed in f64, and are f32 like the signal, as NumPy and TensorFlow have it.

pub mod dc_block;
pub mod dct;
pub mod decibel;
pub mod decimator;
pub mod fft;
pub mod mel;
pub mod moments;
pub mod resampler;
pub mod sos;
pub mod window;

pub use dc_block::DcBlock;
pub use dct::{Dct, DctNorm};
pub use decibel::{Decibel, amplitude, at_least};
pub use decimator::Decimator;
pub use fft::RealFft;
pub use mel::{MelFilters, MelNorm, MelScale, MelShape, Triangles};
pub use moments::Moments;
pub use resampler::{Ratio, Resampler};
pub use sos::{Band, Section, SosFilter};
pub use window::WindowFunction;

use crate::schema::choice;

choice! {
    /// Whose code a spectrum is computed like. It sets the defaults, and details that no key sets.
    pub enum Convention { Librosa = "librosa", TensorFlow = "tensorflow" }
}
