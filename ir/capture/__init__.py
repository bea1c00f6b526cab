"""From a torch.export program to a Module: the only way a model enters the compiler."""
