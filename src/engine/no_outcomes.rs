//! No outcomes anywhere: the feature `register` is off.

use std::sync::Arc;

use super::Builder;
use super::reconcile::Reconciler;
use crate::clock::Timeline;
use crate::error::Result;
use crate::outcome::OnAbandon;
use crate::store::Store;

#[allow(clippy::unused_self, clippy::unnecessary_wraps)] // The same shape as with the feature.
impl Builder {
    pub(super) fn store_on_abandon(&self) -> OnAbandon {
        self.on_abandon
    }

    pub(super) fn reconciler(
        &self,
        _: &Arc<dyn Store>,
        _: &Timeline,
    ) -> Result<Option<Arc<Reconciler>>> {
        Ok(None)
    }
}
