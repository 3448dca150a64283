//! Random numbers for simulated allocators, the same in every run.

use crate::statistics::Chance;

pub(crate) struct Random(Chance);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Chance::seeded(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d))
    }

    /// From 0 to 1, without both.
    pub(crate) fn uniform(&mut self) -> f64 {
        self.0.fraction() + 0.5 / 2_f64.powi(53)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.uniform() * limit as f64) as usize
    }

    /// With mean 0 and standard deviation 1.
    pub(crate) fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Time to the next event of a Poisson process.
    pub(crate) fn exponential(&mut self, mean: f64) -> f64 {
        -mean * self.uniform().ln()
    }
}
