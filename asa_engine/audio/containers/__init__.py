"""What a file is, and which of its bytes are sound; decoders get no say in it.

One invariant: the bytes that a decoder is given are all the bytes of sound, they are decoded to
their end, or the recording is refused.
"""
