//! Images in planar YUV 4:2:0, as RGB: all of Y, then U and V, each with a value for every two pixels of every second row.

use yuv::{YuvPlanarImage, YuvRange, YuvStandardMatrix, yuv420_to_rgb};

use crate::schema::choice;

choice! {
    /// How red, green and blue became Y, U and V.
    pub enum Matrix {
        /// As in television of standard definition, in JPEG files, and in what ffmpeg makes of RGB.
        Bt601 = "bt601",
        /// As in television of high definition.
        Bt709 = "bt709",
    }
}

choice! {
    /// The values from black to white.
    pub enum Range {
        /// 16 to 235, as in television.
        Limited = "limited",
        /// 0 to 255, as in JPEG files, and as rpicam-vid writes it.
        Full = "full",
    }
}

/// Makes RGB of images of one size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Yuv420 {
    width: u32,
    height: u32,
    matrix: YuvStandardMatrix,
    range: YuvRange,
}

impl Yuv420 {
    /// `width` and `height` are even.
    pub(super) fn new(width: usize, height: usize, matrix: Matrix, range: Range) -> Self {
        let size = |pixels| u32::try_from(pixels).unwrap_or(u32::MAX);
        let matrix = match matrix {
            Matrix::Bt601 => YuvStandardMatrix::Bt601,
            Matrix::Bt709 => YuvStandardMatrix::Bt709,
        };
        let range = match range {
            Range::Limited => YuvRange::Limited,
            Range::Full => YuvRange::Full,
        };
        Self { width: size(width), height: size(height), matrix, range }
    }

    /// Fills `rgb`, `[height, width, 3]`, from one image. Allocates nothing.
    ///
    /// # Errors
    /// The sizes do not fit; `rgb` has any values then.
    pub(super) fn convert(&self, image: &[u8], rgb: &mut [u8]) -> Result<(), String> {
        let pixels = self.width as usize * self.height as usize;
        let planes = image.split_at_checked(pixels).and_then(|(y, colour)| {
            let (u, v) = colour.split_at_checked(pixels / 4)?;
            Some((y, u, v))
        });
        let (y_plane, u_plane, v_plane) = planes.ok_or("an image is shorter than its size says")?;
        let (width, height) = (self.width, self.height);
        let half = width / 2;
        let image = YuvPlanarImage {
            y_plane,
            y_stride: width,
            u_plane,
            u_stride: half,
            v_plane,
            v_stride: half,
            width,
            height,
        };
        yuv420_to_rgb(&image, rgb, width * 3, self.range, self.matrix).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The textbook's equations, in floating point: Kr and Kb of the matrix give all factors.
    fn by_the_book(y: u8, u: u8, v: u8, matrix: Matrix, range: Range) -> [f64; 3] {
        let (kr, kb) = match matrix {
            Matrix::Bt601 => (0.299, 0.114),
            Matrix::Bt709 => (0.2126, 0.0722),
        };
        let (y, scale) = match range {
            Range::Limited => ((f64::from(y) - 16.0) / 219.0, 224.0),
            Range::Full => (f64::from(y) / 255.0, 255.0),
        };
        let (u, v) = ((f64::from(u) - 128.0) / scale, (f64::from(v) - 128.0) / scale);
        let (r, b) = (y + 2.0 * (1.0 - kr) * v, y + 2.0 * (1.0 - kb) * u);
        let g = (y - kr * r - kb * b) / (1.0 - kr - kb);
        [r, g, b].map(|value| (value * 255.0).clamp(0.0, 255.0))
    }

    #[test]
    fn each_pixel_has_the_colour_of_the_equations() {
        // Sizes that are not multiples of any register, with a colour of its own for each block of four pixels.
        for (width, height) in [(2, 2), (6, 4), (34, 10), (130, 6)] {
            let image: Vec<u8> = (0..width * height * 3 / 2).map(|i| (i * 37 + i / 7 * 101) as u8).collect();
            let (y, colour) = image.split_at(width * height);
            let (u, v) = colour.split_at(width * height / 4);
            for (matrix, range) in
                [Matrix::Bt601, Matrix::Bt709].into_iter().flat_map(|m| [(m, Range::Limited), (m, Range::Full)])
            {
                let mut rgb = vec![0; width * height * 3];
                Yuv420::new(width, height, matrix, range).convert(&image, &mut rgb).unwrap();
                for (at, pixel) in rgb.chunks(3).enumerate() {
                    let (row, column) = (at / width, at % width);
                    let block = row / 2 * (width / 2) + column / 2;
                    let expected = by_the_book(y[at], u[block], v[block], matrix, range);
                    for (value, expected) in pixel.iter().zip(expected) {
                        let off = (f64::from(*value) - expected).abs();
                        assert!(off <= 2.0, "{width}x{height} {matrix:?} {range:?} {at}: {pixel:?}, not {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_image_of_another_size_is_refused() {
        let yuv = Yuv420::new(4, 4, Matrix::Bt601, Range::Full);
        assert!(yuv.convert(&[0; 17], &mut [0; 48]).is_err());
        assert!(yuv.convert(&[0; 24], &mut [0; 47]).is_err());
        assert!(yuv.convert(&[0; 24], &mut [0; 48]).is_ok());
    }
}
