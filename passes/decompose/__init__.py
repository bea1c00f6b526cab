"""Ops taken apart into smaller ones, where no kernel takes them whole or the parts run faster."""
