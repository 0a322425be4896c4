//! Catalogue of kernels, and how each is obtained and built for.
