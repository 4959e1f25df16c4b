"""The paper's ablations on scenes: runs, their speed, tables and figures."""
