"""What artifacts of a bundle hold, read without the libraries that run them."""
