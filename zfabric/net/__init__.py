"""Everything that touches a network socket."""
