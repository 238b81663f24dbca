//! From a `Spec` to a plan.
use super::{ContainerPlan, ExecPlan, PlanOptions, RootfsSource};
use crate::PlanError;
use kekkai_oci::runtime::{Process, Spec};

pub(super) fn container(_spec: &Spec, _rootfs: RootfsSource, _options: &PlanOptions) -> Result<ContainerPlan, PlanError> {
    Err(PlanError::Unsupported("planning".into()))
}

pub(super) fn exec(_process: &Process, _container: &ContainerPlan) -> Result<ExecPlan, PlanError> {
    Err(PlanError::Unsupported("planning".into()))
}
