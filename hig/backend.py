"""Keras on TensorFlow, which is what hig's models and optimizers are made for; importing this says so if it is not there."""

try:
    import keras
    _found = keras.config.backend()
except (ImportError, ValueError) as error:                              # another backend that is not installed, or not known
    _found = " ".join(str(error).split())
if _found != "tensorflow":
    raise ImportError(f"hig needs Keras with its TensorFlow backend, found: {_found}; set KERAS_BACKEND=tensorflow") from None
