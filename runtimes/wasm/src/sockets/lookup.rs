//! `wasi:sockets/ip-name-lookup` of WASI 0.2: a look-up is begun, waited for, and read out.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use async_trait::async_trait;
use tokio::task::JoinHandle;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{
    Host, HostResolveAddressStream, ResolveAddressStream,
};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, Network};
use wasmtime_wasi::p2::{DynPollable, Pollable, SocketResult, subscribe};

use crate::denied::Import;
use crate::instance::State;
use crate::names::LookUpError;

/// The resource. wasmtime's bindings know it as [`ResolveAddressStream`], by its number.
enum Looking {
    Up(JoinHandle<Result<Vec<IpAddr>, LookUpError>>),
    Found(std::vec::IntoIter<IpAddr>),
    Failed(ErrorCode),
}

impl Looking {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Looking::Up(task) = self {
            let found = ready!(Pin::new(task).poll(cx));
            *self = match found {
                Ok(Ok(addresses)) => Looking::Found(addresses.into_iter()),
                Ok(Err(error)) => Looking::Failed(code(&error)),
                Err(_) => Looking::Failed(ErrorCode::PermanentResolverFailure),
            };
        }
        Poll::Ready(())
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        if let Looking::Up(task) = self {
            task.abort();
        }
    }
}

#[async_trait]
impl Pollable for Looking {
    async fn ready(&mut self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

fn code(error: &LookUpError) -> ErrorCode {
    match error {
        LookUpError::Invalid => ErrorCode::InvalidArgument,
        LookUpError::Unknown => ErrorCode::NameUnresolvable,
        LookUpError::Temporary(_) => ErrorCode::TemporaryResolverFailure,
        LookUpError::Permanent(_) => ErrorCode::PermanentResolverFailure,
    }
}

fn ours(stream: &Resource<ResolveAddressStream>) -> Resource<Looking> {
    Resource::new_borrow(stream.rep())
}

impl Host for State {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> SocketResult<Resource<ResolveAddressStream>> {
        self.table.get(&network)?;
        if !self.container.spec.grants.names {
            self.container.denied(Import::Names);
            return Err(ErrorCode::AccessDenied.into());
        }
        let container = self.container.clone();
        let task = tokio::spawn(async move { container.look_up(&name).await });
        let looking = self.table.push(Looking::Up(task))?;
        Ok(Resource::new_own(looking.rep()))
    }
}

impl HostResolveAddressStream for State {
    fn resolve_next_address(
        &mut self,
        this: Resource<ResolveAddressStream>,
    ) -> SocketResult<Option<IpAddress>> {
        let looking = self.table.get_mut(&ours(&this))?;
        if looking.poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            return Err(ErrorCode::WouldBlock.into());
        }
        match looking {
            Looking::Found(addresses) => Ok(addresses.next().map(IpAddress::from)),
            Looking::Failed(code) => Err((*code).into()),
            Looking::Up(_) => Err(ErrorCode::WouldBlock.into()),
        }
    }

    fn subscribe(
        &mut self,
        this: Resource<ResolveAddressStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        subscribe(&mut self.table, ours(&this))
    }

    fn drop(&mut self, this: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        self.table.delete(Resource::<Looking>::new_own(this.rep()))?;
        Ok(())
    }
}
