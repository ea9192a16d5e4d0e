"""What looks like a secret, or is declared one: hidden where it is shown, found, taken out."""
