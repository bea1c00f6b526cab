"""What turns a Module into something that runs, and says why it cannot."""
