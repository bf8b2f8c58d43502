"""Radiomics features: PyRadiomics' values, by its own code or by fast kernels."""
