"""What a token may say: the strict reader, key sets, signatures, and the checks of claims."""
