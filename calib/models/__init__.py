"""Who answers: decoder-only models, opened through nnsight and proved to be read rightly."""
