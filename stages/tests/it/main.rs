//! Tests of the stages as others see them: through the registry.

mod python_stage;
