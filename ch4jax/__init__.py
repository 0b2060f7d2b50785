"""Regularisation and building blocks of deep learning as pure JAX functions.

Each room is imported by its own name, as in `from ch4jax import dropout`.
Importing this package runs nothing: no key, no device, no network.
"""
