"""How each op is said in TVM's tensor expressions, one module per family."""
