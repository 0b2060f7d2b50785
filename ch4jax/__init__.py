"""Regularisation and building blocks of deep learning as pure JAX functions.

Import each module by its own name, as in `from ch4jax import dropout`. Importing this
package runs nothing: it makes no key, touches no device and opens no connection.
"""

__version__ = "0.2.0"
