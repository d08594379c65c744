//! The parts of a bottleneck adapter.

use super::adapter::{BottleneckAdapter, Sublayer, SublayerSlot};
use super::config::BottleneckConfig;
use crate::build::{Build, Site};
use crate::error::Result;

/// Builds the parts of one adapter.
pub(crate) struct BottleneckBuilder<'a>(pub(crate) &'a BottleneckConfig);

impl Build for BottleneckBuilder<'_> {
    fn method(&self) -> &'static str {
        "a bottleneck adapter"
    }

    fn sublayer(
        &self,
        site: &Site<'_>,
        slot: &SublayerSlot<'_>,
    ) -> Result<Option<BottleneckAdapter>> {
        let wanted = match slot.kind {
            Sublayer::Attention => self.0.mh_adapter,
            Sublayer::FeedForward => self.0.output_adapter,
        };
        Ok(wanted.then(|| BottleneckAdapter::init(self.0, slot.width, site.keys(), &slot.device)))
    }
}
