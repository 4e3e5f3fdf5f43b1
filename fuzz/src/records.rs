//! Signed records as peers, files and journals bring them.

use serde::Serialize;
use serde::de::DeserializeOwned;
use wc_types::charter::Founding;
use wc_types::cid::{CODEC_DAG_CBOR, cid_of};
use wc_types::entry::Entry;
use wc_types::grant::Grant;
use wc_types::manifest::{InputList, Manifest};
use wc_types::node::Enrolment;
use wc_types::outcome::{Outcome, ResultRecord};
use wc_types::receipt::{Receipt, ReceiptFile};
use wc_types::sign::Sealed;
use wc_types::signers::{Handover, SignerSet, SigningRequest};
use wc_types::{Signed, from_canonical, to_canonical};

use crate::sample;

/// Reads the bytes as every kind of record. What is accepted has exactly these bytes; what is signed by the right key
/// opens to the same record.
pub fn target(data: &[u8]) {
    canonical::<Manifest>(data);
    canonical::<InputList>(data);
    canonical::<Founding>(data);
    canonical::<Enrolment>(data);
    canonical::<Grant>(data);
    canonical::<ResultRecord>(data);
    canonical::<Outcome>(data);
    canonical::<Entry>(data);
    canonical::<Receipt>(data);
    canonical::<ReceiptFile>(data);
    canonical::<Handover>(data);
    canonical::<SignerSet>(data);
    canonical::<SigningRequest>(data);
    canonical::<Signed<Manifest>>(data);
    canonical::<Sealed>(data);
}

/// One record of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let signed = Signed::seal(sample::manifest(), &sample::key());
    vec![
        to_canonical(&sample::manifest()),
        to_canonical(&sample::input_list()),
        to_canonical(&sample::founding()),
        to_canonical(&sample::enrolment()),
        to_canonical(&sample::grant()),
        to_canonical(&sample::result_record()),
        to_canonical(&sample::outcome()),
        to_canonical(&sample::entry()),
        to_canonical(&sample::receipt_file()),
        to_canonical(&sample::handover()),
        to_canonical(&sample::signer_set()),
        to_canonical(&sample::signing_request()),
        to_canonical(&signed),
    ]
}

fn canonical<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let Ok(value) = from_canonical::<T>(data) else { return };
    assert_eq!(to_canonical(&value), data, "a record has one encoding");
    let signature = sample::key().sign_bytes(&cid_of(CODEC_DAG_CBOR, data).to_bytes());
    let sealed = Sealed { record: data.to_vec(), signer: sample::key().public(), signature };
    assert_eq!(*sealed.open::<T>().expect("the signature is right"), value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn accepted<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(sample: &T) {
        assert_eq!(from_canonical::<T>(&to_canonical(sample)).as_ref(), Ok(sample));
    }

    #[test]
    fn every_sample_is_accepted_by_its_reader() {
        accepted(&sample::manifest());
        accepted(&sample::input_list());
        accepted(&sample::founding());
        accepted(&sample::enrolment());
        accepted(&sample::grant());
        accepted(&sample::result_record());
        accepted(&sample::outcome());
        accepted(&sample::entry());
        accepted(&sample::receipt_file());
        accepted(&sample::handover());
        accepted(&sample::signer_set());
        accepted(&sample::signing_request());
        accepted(&Signed::seal(sample::manifest(), &sample::key()));
        seeds().iter().for_each(|seed| target(seed));
    }
}
